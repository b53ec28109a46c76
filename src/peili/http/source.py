"""The body of an answer, as it comes from a peer's socket."""

from __future__ import annotations

import contextlib
import socket

import trio

from peili.http.dial import enlarge_receive_buffer
from peili.http.errors import SourceEnded

_READ_SIZE = 64 * 1024


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

    def take(self, count: int) -> None:
        """This many bytes were moved out of the socket by somebody who reads it by its file descriptor."""
        self.remaining -= count

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
            self.failed = True
            raise SourceEnded(f"the connection broke {self.remaining} bytes before the end: {error}") from error
        if not data:
            self.failed = True
            raise SourceEnded(f"the connection ended {self.remaining} bytes before the end")
        self.take(len(data))
        return data

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
            self.take(len(data))

    def _receive_now(self, count: int) -> bytes:
        try:
            with socket.socket(fileno=self.fileno) as plain:
                try:
                    return plain.recv(count, socket.MSG_DONTWAIT)
                finally:
                    plain.detach()
        except OSError:  # nothing there, or broken: both mean nothing to take
            return b""
