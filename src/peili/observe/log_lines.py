"""Where log lines go: standard error, without ever waiting for its reader and without ever failing.

A container's standard error is a pipe that the runtime empties; while containerd restarts nobody does, and after
64 KiB a write would wait, with the whole node. On a full disk a write fails, as it does where the reader is gone.
A log is not worth a transfer: lines that cannot be written are lost, and how many is said later.
"""

from __future__ import annotations

import io
import json
import os
import select
from typing import Final

PIECE: Final = select.PIPE_BUF  # bytes that a pipe takes without waiting when poll says that it is writable


class LogLines(io.TextIOBase):
    """A text stream over a file descriptor; each flush is one line, written or lost."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._poll = select.poll()
        self._poll.register(fileno, select.POLLOUT)
        self._buffer = ""
        self._within_line = False
        self.lost = 0  # lines since the last one that was written

    def write(self, text: str) -> int:
        """Keep this for the next flush."""
        self._buffer += text
        return len(text)

    def flush(self) -> None:
        """Write what was kept, or lose it. Never blocks, never raises OSError."""
        line, self._buffer = self._buffer.encode(errors="backslashreplace"), ""
        if not line:
            return
        if self.lost:
            line = self._confession() + line
        if self._send(b"\n" + line if self._within_line else line):
            self.lost = 0
        else:
            self.lost += 1

    def _confession(self) -> bytes:
        event = {"event": "log lines were lost: nobody read them, or the disk is full", "lines": self.lost}
        return json.dumps({**event, "level": "warning"}).encode() + b"\n"

    def _send(self, line: bytes) -> bool:
        """Whether all of it was written."""
        rest = memoryview(line)
        try:
            while rest and self._poll.poll(0):
                rest = rest[os.write(self._fileno, rest[:PIECE]) :]
        except OSError:
            pass  # ENOSPC, EPIPE, EIO: there is nowhere to say so
        if len(rest) < len(line):
            self._within_line = bool(rest)
        return not rest
