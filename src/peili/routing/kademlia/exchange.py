"""Requests on one connection, asked and answered: few streams, kept open, each with one request at a time.

Go keeps one stream per peer and protocol for all its requests and tries once more on a new one, because the other
side resets a stream that was idle for a minute. So do we; a second stream is opened only beside a busy one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from peili.libp2p.host import Connection, Stream, StreamError

PARALLEL_STREAMS: Final = 4  # to one peer for one protocol; more requests wait their turn
KEPT_STREAMS: Final = 2  # idle ones
IDLE_STREAM: Final = 60.0  # seconds without a request after which a stream is closed (as Go's)
WRITE_TIMEOUT: Final = 10.0  # seconds for an answer to leave


class StreamPool:
    """The streams of one connection for one protocol."""

    def __init__(self, connection: Connection, protocol: str, answer_limit: int) -> None:
        """`answer_limit` is in bytes."""
        self._connection = connection
        self._protocol = protocol
        self._answer_limit = answer_limit
        self._idle: list[Stream] = []
        self._turn = trio.Semaphore(PARALLEL_STREAMS)

    async def request(self, body: bytes) -> bytes:
        """Send a frame and return the answer's. Raise StreamError. Cancelling costs one stream, nothing else."""
        answer = await self._in_turn(body, answered=True)
        assert answer is not None
        return answer

    async def send(self, body: bytes) -> None:
        """Send a frame that has no answer (ADD_PROVIDER). Raise StreamError."""
        await trio.lowlevel.checkpoint()  # nothing else waits here, and there may be thousands of them
        await self._in_turn(body, answered=False)

    async def _in_turn(self, body: bytes, *, answered: bool) -> bytes | None:
        try:
            self._turn.acquire_nowait()  # to acquire it otherwise takes a turn of the event loop
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            return await self._exchange(body, answered=answered)
        finally:
            self._turn.release()

    async def _exchange(self, body: bytes, *, answered: bool) -> bytes | None:
        if self._idle:
            try:
                return await self._exchange_on(self._idle.pop(), body, answered=answered)
            except StreamError:
                self._idle.clear()  # they were idle for as long: all are reset by now
        return await self._exchange_on(await self._connection.open_stream(self._protocol), body, answered=answered)

    async def _exchange_on(self, stream: Stream, body: bytes, *, answered: bool) -> bytes | None:
        try:
            await stream.write_frame(body)
            answer = await stream.read_frame(self._answer_limit) if answered else None
        except StreamError:
            await stream.reset()
            raise
        if answered and answer is None:
            await stream.aclose()
            raise StreamError("the peer ended the stream instead of answering")
        if len(self._idle) < KEPT_STREAMS:
            self._idle.append(stream)
        else:
            await stream.aclose()
        return answer


async def answer_requests(
    stream: Stream,
    limit: int,
    sender_known: Callable[[], Awaitable[object]],
    answer: Callable[[bytes], bytes | None],
) -> None:
    """Answer the requests of an inbound stream, until it ends or is idle for too long.

    `limit`: bytes of a request. `sender_known` is waited for before an answer. Raise StreamError, and as `answer`.
    """
    with trio.CancelScope() as scope:  # one for all: to make one for each request costs as much as to answer it
        while True:
            scope.deadline = trio.current_time() + IDLE_STREAM
            request = await stream.read_frame(limit)
            if request is None:
                return
            await sender_known()
            if (body := answer(request)) is not None:
                scope.deadline = trio.current_time() + WRITE_TIMEOUT
                await stream.write_frame(body)
