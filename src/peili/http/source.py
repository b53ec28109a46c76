"""The body of an answer, as it comes from a peer's socket."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final

import trio

from peili.http.dial import enlarge_receive_buffer
from peili.http.errors import SourceEnded
from peili.http.stages import CopyStage, Stage

_READ_SIZE = 64 * 1024
# What splice says where these two descriptors cannot be spliced (splice(2)).
_NO_SPLICE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class CannotSplice(Exception):
    """The kernel does not splice from this socket; nothing was taken."""


class Source:
    """A body of known length: first the bytes that came along with the head, then those in the socket.

    Owned by its Response. `remaining` counts exactly the bytes not yet taken, buffered ones included.
    """

    __slots__ = ("_buffer", "_socket", "failed", "low_water", "remaining")

    def __init__(self, sock: trio.socket.SocketType, buffered: bytes, length: int) -> None:
        self._socket = sock
        self._buffer = memoryview(buffered)[:length]
        self.low_water = 1  # see set_low_water
        self.remaining = length
        self.failed = False  # the connection ended or broke in the middle of the body

    @property
    def buffered(self) -> memoryview:
        """Bytes that were read already and come before those in the socket."""
        return self._buffer

    @property
    def fileno(self) -> int:
        """The file descriptor of the socket, for splice and for readiness."""
        return self._socket.fileno()

    def take_buffered(self, count: int) -> None:
        """These first bytes of `buffered` were used."""
        # A part of a view keeps all of what it is a view of, for as long as a slow reader takes.
        self._buffer = self._buffer[count:] if count < len(self._buffer) else memoryview(b"")
        self.remaining -= count

    def fill(self, stage: Stage, count: int) -> int:
        """Have the stage take up to `count` bytes out of the socket; zero where there are none now, or no room.

        Raise SourceEnded, and CannotSplice. For any one thread at a time.
        """
        try:
            taken = stage.fill(self.fileno, count)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _NO_SPLICE and not isinstance(stage, CopyStage):
                raise CannotSplice from error
            raise self._ended(f"broke: {error.strerror}") from error
        if not taken:
            raise self._ended("ended")
        self.remaining -= taken
        return taken

    def set_low_water(self, count: int) -> None:
        """Be readable only when this many bytes are there, or the end (SO_RCVLOWAT, socket(7))."""
        wanted = max(1, min(count, self.remaining))
        if wanted != self.low_water:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            self.low_water = wanted

    def let_run_ahead(self) -> None:
        """Our reader is fast: the peer may send far ahead of it from now on."""
        enlarge_receive_buffer(self._socket)

    async def receive(self, limit: int = _READ_SIZE) -> bytes:
        """Some bytes, at least one unless the body is complete; raise SourceEnded. Waits without a limit."""
        count = min(limit, self.remaining)
        if self._buffer or count == 0:
            data = bytes(self._buffer[:count])
            self.take_buffered(len(data))
            return data
        try:
            data = await self._socket.recv(count)
        except OSError as error:
            raise self._ended(f"broke: {error.strerror}") from error
        if not data:
            raise self._ended("ended")
        self.remaining -= len(data)
        return data

    def _ended(self, how: str) -> SourceEnded:
        self.failed = True
        return SourceEnded(f"the source's connection {how} {self.remaining} bytes before the end")

    def abort(self) -> None:
        """End the connection: whoever relays this body sees its end, and what had arrived is still passed on."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def take_what_is_there(self, limit: int) -> None:
        """Discard up to `limit` bytes that have already arrived, without waiting."""
        self.take_buffered(min(limit, len(self._buffer)))
        while 0 < self.remaining <= limit and not self._buffer:
            data = self._receive_now(self.remaining)
            if not data:
                return
            self.remaining -= len(data)

    def _receive_now(self, count: int) -> bytes:
        try:
            with socket.socket(fileno=self.fileno) as plain:
                try:
                    return plain.recv(count, socket.MSG_DONTWAIT)
                finally:
                    plain.detach()
        except OSError:  # nothing there, or broken: both mean nothing to take
            return b""
