"""Slow clients as a child process, and how far they are."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import slow_readers
from benchmarks.peilis import Peili
from benchmarks.stores import Content, Store
from benchmarks.writing import begin
from tests.integration.lab.node import REGISTRY_PORT
from tests.integration.lab.processes import Process
from tests.integration.lab.waiting import wait_until

ROOT = Path(__file__).parents[1]
_TIMEOUT = 60.0  # seconds until every client was answered
_SAID = re.compile(r"begun (\d+) refused (\d+) ended (\d+) bytes (\d+) least (\d+)\n")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far clients are, and when they said so, by the monotonic clock. Bytes are of bodies."""

    at: float
    begun: int = 0  # answered 200
    refused: int = 0  # answered otherwise
    ended: int = 0  # whose connection has ended
    read: int = 0  # bytes, all together
    least: int = 0  # bytes, of the one that reads and has read least


class Crowd:
    """Clients that read slowly, or not at all once they have the answer's head."""

    def __init__(
        self,
        node: Peili,
        blobs: Sequence[Content],
        count: int,
        rate: float,
        *,
        stopped: int = 0,
        store: Store | None = None,
    ) -> None:
        number = len(list(node.log.parent.glob("crowd-*.paths")))
        names = node.log.with_name(f"crowd-{number}.paths")
        names.write_text("\n".join(blob.path for blob in blobs))
        # What they read is thrown away, and never grows to the piece that containerd writes at once.
        self._ingests = [begin(store, blob) for blob in blobs[:count]] if store is not None else []
        for ingest in self._ingests:
            ingest.close()
        self.count = count
        self._node = node
        self._log = names.with_suffix(".log")
        words = [node.host, REGISTRY_PORT, names, count, rate, stopped]
        command = [sys.executable, "-m", slow_readers.__name__, *map(str, words)]
        self._reading = count - stopped
        self._process = Process(command, self._log, extra={"PYTHONPATH": str(ROOT)})

    def wait_flowing(self) -> None:
        """Wait until every client was answered 200, and has bytes of the body unless it reads none."""

        def flows() -> bool:
            said = self.progress()
            assert said.begun == self.count, said
            assert said.least or not self._reading, said
            return True

        wait_until(flows, f"{self.count} slow transfers flow", _TIMEOUT)
        assert not self.progress().ended, self.progress()

    def wait_answered(self) -> None:
        """Wait until every client was answered in any way, or lost its connection."""

        def answered() -> bool:
            said = self.progress()
            return said.begun + said.refused + said.ended >= self.count

        wait_until(answered, f"{self.count} clients are answered", _TIMEOUT)

    def progress(self) -> Progress:
        """What they said last, at most half a second ago."""
        self._process.check_running()
        said = _SAID.findall(self._log.read_text(errors="replace"))
        return Progress(time.monotonic(), *map(int, said[-1] if said else ()))

    def in_flight(self) -> float:
        """How many bodies their node is still sending, those of others included.

        The clients cannot tell: the kernel holds a minute of what they read, also of a body that was cut off.
        """
        return self._node.metric("peili_transfers_in_flight")

    def close(self) -> None:
        """Go away, all at once."""
        self._process.kill()
        for ingest in self._ingests:
            ingest.abort()


@contextmanager
def crowd(
    node: Peili,
    blobs: Sequence[Content],
    count: int,
    rate: float,
    *,
    stopped: int = 0,
    store: Store | None = None,
) -> Iterator[Crowd]:
    """Clients of a node, each with the next of the blobs, at `rate` bytes a second; `stopped` read only heads.

    With the node's layout they ask as containerd does, which begins to write first. Then each has its own blob.
    """
    clients = Crowd(node, blobs, count, rate, stopped=stopped, store=store)
    try:
        yield clients
    finally:
        clients.close()
