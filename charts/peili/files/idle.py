"""Do nothing until told to end: keeps a clean-up pod ready, so that it can be counted.

As a container's first process, Python has to ask for SIGTERM, or would never see it (pid_namespaces(7)).
"""

from __future__ import annotations

import signal

ENDS = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
print("cleaned up; waiting to be removed", flush=True)
signal.sigwait(ENDS)
