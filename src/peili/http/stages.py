"""Where relayed bytes rest between two sockets: a pipe, filled and drained with splice, or a small buffer.

A stage is held only while bytes move. So a thousand slow transfers share a few pipes. pipe(7): a user without
CAP_SYS_RESOURCE has 16,384 pipe pages in all (uid 0 shares them with all of root on the host); beyond that a new
pipe has 8 KiB and cannot grow, which is no use for splicing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Final, Protocol

from peili.http.pump import Pump

PIPE_SIZE: Final = 1024 * 1024  # measured on loopback: 0.36 to 0.4 CPU s/GB; 256 KiB cost 0.46
PIPES: Final = 48  # of that size they stay below those 16,384 pages
USEFUL_PIPE_SIZE: Final = 64 * 1024  # a smaller one costs more system calls than copying saves
PIPE_RETRY_AFTER: Final = 256  # how often to copy after a useless pipe before another one is tried
COPY_BUFFER_SIZE: Final = 64 * 1024
LARGE_COPY_BUFFERS: Final = 128  # of that size at the same time: 8 MiB; further ones are small
SMALL_COPY_BUFFER_SIZE: Final = 4096
PUT_BY_BYTES: Final = 8 * 1024 * 1024  # of all sinks that turned out to take less than they said

_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Way(StrEnum):
    """How relayed bytes came from one socket into the other."""

    SPLICED = "spliced"  # inside the kernel
    COPIED = "copied"  # through a buffer of this process
    WITH_HEAD = "with_head"  # through this process too: read in one piece with the head of their answer


class Stage(Protocol):
    """Takes bytes from one non-blocking file descriptor and gives them to another."""

    pending: int  # bytes in it

    @property
    def way(self) -> Way:
        """How the bytes that it takes are counted."""
        ...

    @property
    def size(self) -> int:
        """How many bytes it can hold at most."""
        ...

    def fill(self, fileno: int, count: int) -> int:
        """Take up to `count` bytes; zero is the end. Raise BlockingIOError (none there, or no room), OSError."""
        ...

    def drain(self, fileno: int, *, more: bool) -> int:
        """Give some bytes; `more`: others follow at once. Raise BlockingIOError (no room there), OSError."""
        ...

    def take_out(self) -> bytes:
        """All bytes that are in it; it is empty then."""
        ...

    def close(self) -> None:
        """Give back what it is made of, bytes included."""
        ...


class PipeStage:
    """A pipe: the bytes never enter this process."""

    __slots__ = ("_read_end", "_write_end", "pending", "size")
    way: ClassVar[Way] = Way.SPLICED

    def __init__(self) -> None:
        """Raise OSError where there is no file descriptor left. `size` may be less than PIPE_SIZE."""
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.pending = 0
        with contextlib.suppress(OSError):  # EPERM: over the user's pages; the size it has then decides
            fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.size: int = fcntl.fcntl(self._write_end, fcntl.F_GETPIPE_SZ)

    def fill(self, fileno: int, count: int) -> int:
        """Splice from a socket."""
        moved = os.splice(fileno, self._write_end, min(count, self.size), flags=_FLAGS)
        self.pending += moved
        return moved

    def drain(self, fileno: int, *, more: bool) -> int:
        """Splice to a socket."""
        flags = _FLAGS | os.SPLICE_F_MORE if more else _FLAGS
        moved = os.splice(self._read_end, fileno, self.pending, flags=flags)
        self.pending -= moved
        return moved

    def take_out(self) -> bytes:
        """Read the pipe empty: what is in it is there at once."""
        parts = []
        while self.pending:
            parts.append(os.read(self._read_end, self.pending))
            self.pending -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close both ends."""
        os.close(self._read_end)
        os.close(self._write_end)


class CopyStage:
    """A buffer in memory, for when there is no useful pipe or the kernel will not splice."""

    __slots__ = ("_buffer", "_start", "pending", "size")
    way: ClassVar[Way] = Way.COPIED

    def __init__(self, size: int) -> None:
        self._buffer = memoryview(bytearray(size))
        self._start = 0
        self.pending = 0
        self.size = size

    def fill(self, fileno: int, count: int) -> int:
        """Read from a socket, into what is free behind the bytes that are there."""
        end = self._start + self.pending
        if end == self.size:
            raise BlockingIOError
        taken = os.readv(fileno, [self._buffer[end : end + count]])
        self.pending += taken
        return taken

    def drain(self, fileno: int, *, more: bool) -> int:
        """Write to a socket."""
        del more
        given = os.write(fileno, self._buffer[self._start : self._start + self.pending])
        self.pending -= given
        self._start = self._start + given if self.pending else 0
        return given

    def take_out(self) -> bytes:
        """A copy of what is in it."""
        content = bytes(self._buffer[self._start : self._start + self.pending])
        self._start = self.pending = 0
        return content

    def close(self) -> None:
        """Nothing to give back but memory."""


class PutBy(CopyStage):
    """Just the bytes that a sink did not take, so that the stage that they were in can be used by others."""

    __slots__ = ()

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content))
        self._buffer[:] = content
        self.pending = len(content)


class StagePool:
    """Lends stages: pipes while there are some, buffers beyond that; counts what went through them.

    For several threads: the pump's and trio's.
    """

    def __init__(self, pipes: int = PIPES, *, pump: Pump | None = None) -> None:
        """`pump`: who moves the bytes of fast transfers; without one they are moved on trio's loop, too."""
        self.pump = pump
        self._lock = threading.Lock()
        self._maximum = pipes
        self._pipes = 0
        self._copies = 0
        self._put_by = self._put_by_bytes = 0
        self._idle: list[PipeStage] = []
        self._skip = 0
        self._relayed = dict.fromkeys(Way, 0)

    @property
    def relayed(self) -> Mapping[Way, int]:
        """A snapshot of how many bytes have come into a sink, by each way."""
        return dict(self._relayed)

    def count(self, way: Way, count: int) -> None:
        """So many bytes more have come into a sink."""
        with self._lock:
            self._relayed[way] += count

    @property
    def pipes(self) -> int:
        """How many pipes exist, idle ones included."""
        return self._pipes

    @property
    def lent(self) -> int:
        """How many stages are out."""
        return self._pipes - len(self._idle) + self._copies + self._put_by

    def acquire(self, *, copying: bool = False) -> Stage:
        """An empty stage; `copying`: a buffer in any case. Give it back with `release`."""
        with self._lock:
            if not copying and (pipe := self._pipe()) is not None:
                return pipe
            self._copies += 1
            return CopyStage(COPY_BUFFER_SIZE if self._copies <= LARGE_COPY_BUFFERS else SMALL_COPY_BUFFER_SIZE)

    def put_by(self, stage: Stage) -> Stage:
        """Take a stage back from who waits for a sink; its bytes stay, in a buffer of their size.

        The stage itself where that is one already, or where too much is put by.
        """
        if isinstance(stage, PutBy) or self._put_by_bytes + stage.pending > PUT_BY_BYTES:
            return stage
        kept = PutBy(stage.take_out())
        self.release(stage)
        with self._lock:
            self._put_by += 1
            self._put_by_bytes += kept.size
        return kept

    def release(self, stage: Stage) -> None:
        """Take a stage back. One that still holds bytes is closed, never lent again."""
        with self._lock:
            if isinstance(stage, PutBy):
                self._put_by -= 1
                self._put_by_bytes -= stage.size
            elif not isinstance(stage, PipeStage):
                self._copies -= 1
            elif stage.pending:
                self._pipes -= 1
                stage.close()
            else:
                self._idle.append(stage)

    def close(self) -> None:
        """Close the pump and the idle pipes; those that are out are closed or kept by `release` as ever."""
        if self.pump is not None:
            self.pump.close()
        while self._idle:
            self._pipes -= 1
            self._idle.pop().close()

    def _pipe(self) -> PipeStage | None:
        if self._idle:
            return self._idle.pop()
        if self._pipes >= self._maximum:
            return None
        if self._skip:
            self._skip -= 1
            return None
        return self._new_pipe()

    def _new_pipe(self) -> PipeStage | None:
        try:
            pipe = PipeStage()
        except OSError:  # no file descriptors: copying needs none
            self._skip = PIPE_RETRY_AFTER
            return None
        if pipe.size < USEFUL_PIPE_SIZE:
            pipe.close()
            self._skip = PIPE_RETRY_AFTER
            return None
        self._pipes += 1
        return pipe
