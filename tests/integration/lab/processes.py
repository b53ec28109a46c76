"""Child processes that cannot outlive the tests, with their output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT = 30.0  # seconds that a process gets to end after SIGTERM
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG_END = 6000  # characters of a log that an error shows


class CommandError(Exception):
    """A program ended with an error; the text says which, and what it printed."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for child processes: ours, with the path of system programs, without PEILI_ settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEILI_")}
    return {**kept, "PATH": PATH, "LC_ALL": "C.UTF-8", "GRPC_ENABLE_FORK_SUPPORT": "0", **(extra or {})}


def command(*words: str, timeout: float = 60.0, extra: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its output; raise CommandError."""
    done = subprocess.run(
        words,
        env=environment(extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise CommandError(
            f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}"[-_LOG_END:]
        )
    return done.stdout


class Process:
    """A program that runs beside the tests. Start it from a thread that lives as long: see PR_SET_PDEATHSIG."""

    def __init__(
        self, words: Sequence[str], log: Path, namespace: str | None = None, extra: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        # `ip netns exec` becomes the program: the process id is that of the program itself. It gives it mounts
        # of its own as well, so what containerd mounts goes when containerd goes.
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*inside, "setpriv", "--pdeathsig", "KILL", "--", *words],
                env=environment(extra),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        self.name = Path(words[0]).name

    @property
    def pid(self) -> int:
        """The process id of the program."""
        return self._popen.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def check_running(self) -> None:
        """Raise CommandError with the end of its log where it has ended."""
        status = self._popen.poll()
        if status is not None:
            raise CommandError(f"{self.name} ended with {status}; its log ends:\n{self.log_end()}")

    def log_end(self) -> str:
        """The last part of what it printed."""
        return self.log.read_text(errors="replace")[-_LOG_END:]

    def send(self, number: signal.Signals) -> None:
        """Send a signal, for example SIGSTOP."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the end and return the status; raise CommandError where it does not come."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{self.name} still runs after {timeout:g} s; log:\n{self.log_end()}") from error

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGTERM, and wait; return the status."""
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, and wait; does nothing to a process that has ended."""
        if self.running():
            self.send(signal.SIGKILL)
        self._popen.wait(STOP_TIMEOUT)
