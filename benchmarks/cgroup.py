"""A memory control group for a process under measurement (cgroups(7); version 1 or 2, whichever is mounted)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import CannotMeasure
from tests.image.in_containerd import CGROUPS, why_no_memory_limit
from tests.integration.lab.waiting import wait_until

_NO_LIMIT = 1 << 50  # bytes: a limit has the kernel count what it otherwise does not


class MemoryGroup:
    """One group with a limit, in bytes; figures in bytes."""

    def __init__(self, directory: Path, limit: int, *, version: int) -> None:
        self._directory = directory
        self._version = version
        self.limit = limit
        if version == 1:
            self._write("memory.limit_in_bytes", limit)
            self._write("memory.kmem.tcp.limit_in_bytes", _NO_LIMIT)
        else:
            self._write("memory.max", limit)

    @property
    def prefix(self) -> list[str]:
        """Words before a command that has to run in it from its first page on."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._directory / "cgroup.procs")]

    @property
    def highest(self) -> int:
        """What was charged to it at most, page cache included."""
        return int(self._read("memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"))

    @property
    def sockets(self) -> int | None:
        """What its TCP sockets held at most, where that is counted apart: version 2 charges it with the rest."""
        return int(self._read("memory.kmem.tcp.max_usage_in_bytes")) if self._version == 1 else None

    @property
    def limited(self) -> int:
        """How often the limit was reached, and something was given back."""
        return int(self._read("memory.failcnt")) if self._version == 1 else self._events()["max"]

    @property
    def kills(self) -> int:
        """How many of its processes the kernel killed for want of memory."""
        return self._events()["oom_kill"]

    def _events(self) -> dict[str, int]:
        lines = self._read("memory.oom_control" if self._version == 1 else "memory.events").splitlines()
        return {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}

    def _read(self, name: str) -> str:
        return (self._directory / name).read_text()

    def _write(self, name: str, value: int) -> None:
        (self._directory / name).write_text(str(value))


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A new group; its processes have to have ended at the end. Raise CannotMeasure."""
    if reason := why_no_memory_limit():
        raise CannotMeasure(reason)
    version = 1 if (CGROUPS / "memory").is_dir() else 2
    directory = (CGROUPS / "memory" if version == 1 else CGROUPS) / f"peili-{os.getpid()}-bench"
    directory.mkdir()
    try:
        if version == 2 and not (directory / "memory.max").exists():
            raise CannotMeasure(f"{CGROUPS}/cgroup.subtree_control has no memory controller")
        yield MemoryGroup(directory, limit, version=version)
    finally:
        wait_until(lambda: _removed(directory), f"{directory} is empty")


def _removed(directory: Path) -> bool:
    directory.rmdir()  # OSError while a process that was killed is still on its way out
    return True
