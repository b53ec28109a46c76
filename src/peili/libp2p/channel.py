"""The bytes of one stream, between the task that uses it and the driver of its connection."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Protocol

import trio

from peili.libp2p.errors import StreamError
from peili.libp2p.yamux import MAX_OUTBOX, Yamux

KEPT: Final = 128  # bytes


class Owner(Protocol):
    """What a stream needs of its connection."""

    @property
    def yamux(self) -> Yamux:
        """The session that the stream is part of."""
        ...

    def wake_writer(self) -> None:
        """There may be something to send."""
        ...

    def unread(self, change: int) -> None:
        """So many more (or, negative, fewer) bytes wait in this stream to be read."""
        ...

    def forget(self, stream_id: int) -> None:
        """The stream takes no more events."""
        ...


class Use:
    """One task at a time reads, or writes. Where it is cancelled the stream is reset: its position is lost."""

    __slots__ = ("_channel", "_taken", "_who")

    def __init__(self, channel: Channel, who: str) -> None:
        self._channel = channel
        self._who = who
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(f"this stream has another {self._who}")
        self._taken = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken = False
        if isinstance(error, trio.Cancelled):
            self._channel.reset(f"the stream was reset: a {self._who} was cancelled")


class Channel:
    """Bytes in both directions between one task and the connection's driver; Stream adds frames and protocols."""

    __slots__ = (
        "_broken", "_buffer", "_ended", "_granted", "_owner", "_readable", "_writable", "id", "reading", "writing",
    )  # fmt: skip

    def __init__(self, owner: Owner, stream_id: int) -> None:
        self.id: Final = stream_id
        self._owner = owner
        self._buffer = bytearray()
        self._granted = 0  # bytes at the front of the buffer whose room the peer has back already
        self._ended = False  # the peer ended its side
        self._broken: str | None = None  # why nothing works any more
        self._readable: trio.Event | None = None
        self._writable: trio.Event | None = None
        self.reading: Final = Use(self, "reader")
        self.writing: Final = Use(self, "writer")

    # What the driver calls

    def on_data(self, data: bytes) -> None:
        """Bytes of the peer."""
        self._buffer += data
        self._owner.unread(len(data))
        self._wake_reader()

    def on_end(self) -> None:
        """The peer ended its side."""
        self._ended = True
        self._wake_reader()

    def on_room(self) -> None:
        """The window grew, or the outbox was emptied."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def on_broken(self, reason: str) -> None:
        """The stream was reset, or the connection ended; what was not read is lost.

        Its first bytes stay, for they may say that the peer refused the protocol before it reset the stream.
        """
        if self._broken is None:
            self._broken = reason
            self._owner.unread(-len(self._buffer))
            self._buffer = self._buffer[:KEPT]
            self._owner.forget(self.id)
        self._wake_reader()
        self.on_room()

    # What users call

    @property
    def ended(self) -> bool:
        """The peer ended its side, and everything that it sent was read."""
        return self._ended and not self._buffer

    async def wait_readable(self) -> bool:
        """Wait until there is more than now; False where the peer ended its side."""
        self.check()
        if self._ended:
            return False
        self._grant()
        self._readable = self._readable or trio.Event()
        await self._readable.wait()
        self.check()
        return True

    def take(self, count: int) -> bytes:
        """Take bytes from the front of the buffer."""
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.taken(count)
        return taken

    def taken(self, count: int) -> None:
        """So many bytes were taken from the buffer."""
        if self._broken is not None:
            return
        self._owner.unread(-count)
        ahead = min(self._granted, count)
        self._granted -= ahead
        self._give_back(count - ahead)

    @property
    def buffer(self) -> bytearray:
        """What was received and not taken; who takes from it tells `taken`."""
        return self._buffer

    async def write(self, data: bytes) -> None:
        """Send all these bytes; waits where window or outbox are full."""
        await trio.lowlevel.checkpoint_if_cancelled()  # who reads what it writes next lets others run
        view, sent = memoryview(data), 0
        while True:
            self.check()
            taken = self._owner.yamux.send(self.id, view[sent:])
            self._owner.wake_writer()
            sent += taken
            if sent == len(view):
                return
            if taken:
                continue  # it may have left for the socket already
            self._writable = self._writable or trio.Event()
            await self._writable.wait()

    def write_now(self, data: bytes) -> None:
        """Send a few bytes on a fresh stream without waiting. Raise StreamError where there is no room even so."""
        self.check()
        if self._owner.yamux.send(self.id, memoryview(data), MAX_OUTBOX) < len(data):
            self.reset("too much is waiting to be sent")
        self._owner.wake_writer()
        self.check()

    def check(self) -> None:
        """Raise StreamError once the stream is broken."""
        if self._broken is not None:
            raise StreamError(self._broken)

    def end(self) -> None:
        """End our side."""
        self._owner.yamux.end(self.id)
        self._owner.wake_writer()

    def abandon(self) -> None:
        """End our side and drop what still comes."""
        if self._broken is None:
            self._owner.yamux.abandon(self.id)
            self._owner.wake_writer()
            self.on_broken("the stream was closed")

    def reset(self, reason: str) -> None:
        """Give up on both directions."""
        if self._broken is None:
            self._owner.yamux.reset(self.id)
            self._owner.wake_writer()
            self.on_broken(reason)

    def _grant(self) -> None:
        """Give the peer room for the rest of a frame of which a part waits here: it may exceed the window."""
        self._give_back(len(self._buffer) - self._granted)
        self._granted = len(self._buffer)

    def _give_back(self, count: int) -> None:
        if count > 0:
            self._owner.yamux.consumed(self.id, count)
            self._owner.wake_writer()

    def _wake_reader(self) -> None:
        if self._readable is not None:
            self._readable.set()
            self._readable = None
