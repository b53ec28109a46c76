"""A file that is still being written, on its way out: what is there is sent, then what arrives, to the end."""

from __future__ import annotations

from typing import Protocol

import trio

from peili.http.errors import SourceEnded, SourceStalled
from peili.http.send_file import send_file
from peili.http.stall import StallWatch
from peili.http.transfer import Account


class GrowingSource(Protocol):
    """An open file that somebody else appends to."""

    @property
    def fileno(self) -> int:
        """Open for reading; positions are given with every read."""
        ...

    def size(self) -> int:
        """How many bytes are there now."""
        ...

    def ended(self) -> bool:
        """Whether it grows no more, whole or not."""
        ...

    async def wait(self, beyond: int, timeout: float) -> bool:
        """Wait until more than `beyond` bytes are there; False when it ended before, or after `timeout` seconds."""
        ...


class GrowingSend:
    """One sending of `count` bytes from `offset`; see Sink.send_growing for what it promises."""

    def __init__(
        self,
        source: GrowingSource,
        sink: int,
        offset: int,
        count: int,
        *,
        account: Account,
        stall_timeout: float,
        write_timeout: float,
    ) -> None:
        self._source = source
        self._sink = sink
        self._at = offset
        self._end = offset + count
        self._account = account
        self._stall_timeout = stall_timeout
        self._write_timeout = write_timeout
        self._watch = StallWatch(stall_timeout)
        self._seen = 0  # the most bytes that the source was seen to have
        self.moved = 0

    async def run(self) -> None:
        """Send the bytes."""
        while self._at < self._end:
            # Asked before the size: what is written between the two questions must not be missed.
            ended = self._source.ended()
            size = self._look()
            if size > self._at:
                await self._send(min(size, self._end) - self._at)
            elif ended:
                raise SourceEnded(f"the growing file ended after {size} bytes", self.moved)
            else:
                await self._wait(size)

    def _look(self) -> int:
        size = self._source.size()
        if size < self._seen:
            raise SourceEnded(f"the growing file was cut from {self._seen} to {size} bytes", self.moved)
        # Growth below the offset is progress too: whoever asked for a later part waits for it.
        self._watch.arrived(size - self._seen)
        self._seen = size
        return size

    async def _send(self, count: int) -> None:
        try:
            await send_file(self._sink, self._source.fileno, self._at, count, self._sent, self._write_timeout)
        except OSError as error:
            raise SourceEnded(f"the growing file cannot be read: {error.strerror or error}", self.moved) from error

    def _sent(self, count: int) -> None:
        self.moved += count
        self._at += count
        self._account(count)

    async def _wait(self, size: int) -> None:
        if self._watch.stalled:
            raise SourceStalled(f"the file did not grow for {self._stall_timeout:g} s", self.moved)
        started = trio.current_time()
        await self._source.wait(size, self._watch.left)
        self._watch.waited(trio.current_time() - started)
