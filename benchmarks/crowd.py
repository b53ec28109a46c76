"""Slow clients as a child process, and how far they are."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import slow_readers
from benchmarks.peilis import Peili
from tests.integration.lab.node import REGISTRY_PORT
from tests.integration.lab.processes import Process
from tests.integration.lab.waiting import wait_until

ROOT = Path(__file__).parents[1]
_TIMEOUT = 60.0  # seconds until every client has read something
_SAID = re.compile(r"reading (\d+) ended (\d+) bytes (\d+)")


class Crowd:
    """Clients that read slowly, or not at all."""

    def __init__(self, node: Peili, paths: Sequence[str], count: int, rate: float, stopped: int = 0) -> None:
        number = len(list(node.log.parent.glob("crowd-*.paths")))
        names = node.log.with_name(f"crowd-{number}.paths")
        names.write_text("\n".join(paths))
        self.count = count
        self._log = names.with_suffix(".log")
        words = [node.host, REGISTRY_PORT, names, count, rate, stopped]
        command = [sys.executable, "-m", slow_readers.__name__, *map(str, words)]
        self._reading = count - stopped
        self._process = Process(command, self._log, extra={"PYTHONPATH": str(ROOT)})

    def wait_flowing(self) -> None:
        """Wait until every client has its first bytes."""

        def flows() -> bool:
            self._process.check_running()
            begun, ended, _ = self.progress()
            assert begun >= self._reading, f"{begun} of {self._reading}"
            assert not ended, f"{ended} answers have ended"
            return True

        wait_until(flows, "slow transfers flow", _TIMEOUT)

    def progress(self) -> tuple[int, int, int]:
        """How many have read something, how many answers have ended, how many bytes all have read."""
        said = _SAID.findall(self._log.read_text(errors="replace"))
        begun, ended, count = said[-1] if said else (0, 0, 0)
        return int(begun), int(ended), int(count)

    def close(self) -> None:
        """Go away, all at once."""
        self._process.kill()


@contextmanager
def crowd(node: Peili, paths: Sequence[str], count: int, rate: float, stopped: int = 0) -> Iterator[Crowd]:
    """Clients of a node, each with the next of the paths, at `rate` bytes a second; `stopped` never read."""
    clients = Crowd(node, paths, count, rate, stopped)
    try:
        clients.wait_flowing()
        yield clients
    finally:
        clients.close()
