"""A wall clock that can be moved, for single processes: a shim that the system's C compiler makes (clock.c)."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.integration.lab.processes import command

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """The clock of all processes that start with `environment`."""

    def __init__(self, directory: Path) -> None:
        library, self._offset = directory / "clock.so", directory / "clock-offset"
        command("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl")
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "PEILI_CLOCK": str(self._offset)}

    def set(self, seconds: int) -> None:
        """Move it by so many seconds from the machine's, at once."""
        if not self._offset.exists():
            self._offset.write_bytes(bytes(8))
        with self._offset.open("r+b") as file:  # in place: the processes have it mapped
            file.write(struct.pack("=q", seconds))
