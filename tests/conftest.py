"""For all tests: whole nodes that run in this process do not log into what other tests capture.

No example of hypothesis fails for its time: tests of pure code give way to others (run.sh).
"""

from __future__ import annotations

import hypothesis
import structlog

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
hypothesis.settings.register_profile(
    "peili", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("peili")
