"""One stream of a connection, as its users see it: an agreed protocol, frames in, frames out."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio

from peili.libp2p import varint
from peili.libp2p.channel import Channel
from peili.libp2p.errors import ProtocolNotSupported, StreamError
from peili.libp2p.multistream import MultistreamError, Proposer

if TYPE_CHECKING:
    from peili.libp2p.connection import Connection


class Stream:
    """One stream of a connection, for one protocol; it carries many frames in each direction.

    One task may read and another write at the same time. A task that is cancelled while it reads or writes
    resets this stream, and nothing else: which part of a frame has left us, or which answer is still to come,
    nobody would know. Reading and writing raise StreamError once the stream is closed or reset, or its connection
    has ended.
    """

    __slots__ = ("_channel", "_opening", "_proposer", "connection", "protocol")

    def __init__(self, connection: Connection, channel: Channel, protocol: str, *, outbound: bool) -> None:
        self.connection: Final = connection
        self.protocol: Final = protocol
        self._channel = channel
        # An outbound stream's protocol is proposed with its first frame, and the answer is read before the first.
        self._proposer = Proposer(protocol) if outbound else None
        self._opening = self._proposer.opening if self._proposer is not None else b""

    async def read_frame(self, limit: int) -> bytes | None:
        """The next frame (a varint length, then so many bytes); None where the peer ended its side between frames.

        A frame of more than `limit` bytes, or an end within a frame, is a StreamError and resets the stream; so is
        a peer that does not speak the protocol (ProtocolNotSupported: noticed at the first read, because it is
        proposed together with the first frame).
        """
        channel = self._channel
        with channel.reading:
            await self._start_reading()
            while (head := self._frame_head()) is None:
                if not await channel.wait_readable():
                    self._check_end()
                    return None
            length, start = head
            if length > limit:
                raise self._failed(f"a frame of {length} bytes where {limit} are allowed")
            while len(channel.buffer) < start + length:
                if not await channel.wait_readable():
                    self._check_end()
                    return None
            channel.take(start)
            return channel.take(length)

    async def read_exactly(self, count: int) -> bytes | None:
        """So many bytes, without a frame around them; None where the peer ended its side before the first."""
        channel = self._channel
        with channel.reading:
            await self._start_reading()
            while len(channel.buffer) < count:
                if not await channel.wait_readable():
                    self._check_end()
                    return None
            return channel.take(count)

    async def read_some(self) -> bytes | None:
        """Whatever bytes come next, without a frame around them; None where the peer ended its side."""
        channel = self._channel
        with channel.reading:
            await self._start_reading()
            while not channel.buffer:
                if not await channel.wait_readable():
                    return None
            return channel.take(len(channel.buffer))

    async def write_frame(self, data: bytes) -> None:
        """Send one frame; waits while the peer's window is used up or much is waiting to be sent."""
        await self.write(varint.encode(len(data)) + data)

    async def write(self, data: bytes) -> None:
        """Send bytes without a frame around them."""
        with self._channel.writing:
            opening, self._opening = self._opening, b""
            await self._channel.write(opening + data if opening else data)

    async def close_write(self) -> None:
        """End our side; the peer may go on sending."""
        await trio.lowlevel.checkpoint()
        self._channel.check()
        self._send_opening()
        self._channel.end()

    async def reset(self) -> None:
        """Give up on both directions at once. Never fails, and does not wait."""
        self._channel.reset("the stream was reset by ourselves")

    async def aclose(self) -> None:
        """End our side, and read no more: what still comes is dropped. Never fails, and does not wait."""
        self._channel.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream; reset it where the block ended with an exception."""
        if kind is None:
            await self.aclose()
        else:
            await self.reset()

    async def _start_reading(self) -> None:
        """Send a proposal that waits for a first frame still, and read the answer to it."""
        if self._channel.buffer:
            await trio.lowlevel.checkpoint()  # it may not need to wait, and others are to run as well
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._send_opening()
        while self._proposer is not None:
            if self._take_answer(self._proposer):
                self._proposer = None
            else:
                await self._wait_for_answer(self._proposer)
        self._channel.check()

    async def _wait_for_answer(self, proposer: Proposer) -> None:
        try:
            more = await self._channel.wait_readable()
        except StreamError:
            self._take_answer(proposer)  # a refusal that came just before the reset says more than it
            raise
        if not more:
            raise self._failed("the peer ended the stream instead of agreeing on its protocol")

    def _send_opening(self) -> None:
        opening, self._opening = self._opening, b""
        if opening:
            self._channel.write_now(opening)

    def _take_answer(self, proposer: Proposer) -> bool:
        buffer = self._channel.buffer
        before = len(buffer)
        try:
            return proposer.receive(buffer)
        except ProtocolNotSupported:
            self._channel.reset(f"the peer does not speak {self.protocol}")
            raise
        except MultistreamError as error:
            raise self._failed(str(error)) from error
        finally:
            self._channel.taken(before - len(buffer))

    def _frame_head(self) -> tuple[int, int] | None:
        try:
            return varint.decode(self._channel.buffer)
        except varint.InvalidVarint as error:
            raise self._failed("a frame whose length is no number") from error

    def _check_end(self) -> None:
        """The peer ended its side: fine between frames, an error within one."""
        if self._channel.buffer:
            raise self._failed("the peer ended the stream within a frame")

    def _failed(self, reason: str) -> StreamError:
        self._channel.reset(reason)
        return StreamError(reason)
