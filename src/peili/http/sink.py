"""The body of an answer on its way out."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from peili.http.errors import SinkClosed
from peili.http.growing import GrowingSend, GrowingSource
from peili.http.pace import Pace
from peili.http.pump import Job, Lend, PumpUnavailable
from peili.http.relay import Relay
from peili.http.send_file import send_file
from peili.http.source import Source
from peili.http.stages import StagePool
from peili.http.transfer import Data, send_all

# What a socket holds (SO_MEMINFO of Linux, include/uapi/linux/sock_diag.h): nine numbers, of which these are the
# size of its send buffer and what is in it, both with the kernel's own overhead.
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("@9I")
_SNDBUF, _WMEM_QUEUED = 3, 5
_PAYLOAD: Final = 0.9  # the share of a buffer that bytes of ours get
_SIOCOUTQNSD: Final = 0x894B  # how much was not sent yet (include/uapi/linux/sockios.h)
_INT: Final = struct.Struct("@i")
# Bytes that wait in a client's socket and were not sent yet: little, against the memory of many slow connections,
# and where the reader is fast, enough to be woken rarely. What is in flight on the network comes on top (tcp(7)).
UNSENT_LOW_WATER: Final = 256 * 1024
UNSENT_LOW_WATER_FAST: Final = 1024 * 1024
_UNKNOWN_ROOM: Final = 1024 * 1024


def set_unsent_low_water(sock: trio.socket.SocketType, count: int) -> None:
    """How many bytes that were not sent yet a client's socket may hold."""
    with suppress(OSError):  # it broke meanwhile: the next write will tell
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)


class Sink:
    """Takes exactly the bytes that the answer's Content-Length promised.

    `remaining` is exact whenever a method returns, raises or is cancelled: so many promised bytes have not been
    given to the socket. After a SinkClosed nothing more can be written.
    """

    __slots__ = (
        "_closed",
        "_counted",
        "_job",
        "_moved_at",
        "_pace",
        "_pool",
        "_remaining",
        "_socket",
        "_write_timeout",
        "length",
    )

    def __init__(self, sock: trio.socket.SocketType, length: int, *, write_timeout: float, pool: StagePool) -> None:
        self._socket = sock
        self._write_timeout = write_timeout
        self._pool = pool
        self._closed = False
        self._pace = Pace(trio.current_time())
        self._job: Job | None = None  # what the pump moves now
        self._counted = 0  # bytes of it that were counted already
        self._remaining = length
        self._moved_at = trio.current_time()
        self.length = length

    @property
    def remaining(self) -> int:
        """How many promised bytes the socket has not been given yet."""
        self._count_job()
        return self._remaining

    @remaining.setter
    def remaining(self, count: int) -> None:
        self._remaining = count

    @property
    def moved_at(self) -> float:
        """When the socket took the last bytes, or the answer began; by trio's clock."""
        self._count_job()
        return self._moved_at

    async def write(self, data: Data) -> None:
        """Send bytes from memory; raise SinkClosed, or ValueError where the answer has no room for so many."""
        self._check(len(data))
        with self._closing():
            await send_all(self._socket.fileno(), data, self._account, self._write_timeout)

    async def send_file(self, fileno: int, offset: int, count: int) -> None:
        """Send `count` bytes of an open file from `offset` on, with sendfile.

        Raise SinkClosed; OSError where the file cannot be read or is shorter; ValueError as `write` does.
        """
        self._check(count)
        with self._closing():
            await send_file(
                self._socket.fileno(), fileno, offset, count, self._account, self._write_timeout, self._lend
            )

    async def send_growing(self, source: GrowingSource, offset: int, count: int, *, stall_timeout: float) -> None:
        """Send `count` bytes from `offset` of a file that still grows: what is there, then what arrives.

        Return when all of them are sent, however long it takes; the offset may lie beyond what is there yet.
        Raise SourceEnded where the file grows no more, and SourceStalled where it did not grow to speak of in
        `stall_timeout` seconds of waiting for it (not for the client); `moved` says how many bytes went out, and
        another source can go on at exactly that byte. Raise SinkClosed; ValueError as `write` does.
        """
        self._check(count)
        sending = GrowingSend(
            source,
            self._socket.fileno(),
            offset,
            count,
            account=self._account,
            stall_timeout=stall_timeout,
            write_timeout=self._write_timeout,
        )
        with self._closing():
            await sending.run()

    async def relay(self, source: Source, count: int, *, stall_timeout: float) -> int:
        """Move exactly `count` bytes from a source, inside the kernel; return `count`.

        Raise SourceEnded or SourceStalled (`stall_timeout` seconds of waiting for the source brought nothing to
        speak of); what had left the source is then in our socket: `moved` says how much, and another relay goes
        on at exactly that byte. Raise SinkClosed; ValueError as `write` does, or where the source has less.
        """
        self._check(count)
        if count > source.remaining:
            raise ValueError(f"the source has {source.remaining} bytes, not {count}")
        with self._closing():
            relay = Relay(
                source,
                self._socket.fileno(),
                count,
                account=self._account,
                stall_timeout=stall_timeout,
                write_timeout=self._write_timeout,
                pool=self._pool,
                pace=self._pace,
                room=self.room,
                lend=self._lend,
            )
            return await relay.run()

    def room(self) -> int:
        """How many bytes the client's socket takes now, about."""
        try:
            info = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
            unsent: int = _INT.unpack(fcntl.ioctl(self._socket.fileno(), _SIOCOUTQNSD, bytes(_INT.size)))[0]
        except (OSError, struct.error):  # another kernel, or no TCP
            return _UNKNOWN_ROOM
        room = int((info[_SNDBUF] - info[_WMEM_QUEUED]) * _PAYLOAD)
        return max(0, min(room, UNSENT_LOW_WATER - unsent))

    def is_full(self) -> bool:
        """Whether the client's socket takes nothing now: then it is the client that everybody waits for."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT)
        return not poll.poll(0)

    def _lend(self) -> Lend | None:
        """What gives a job to the pump, and counts what it moves; None while the reader is not a fast one."""
        return self._pump if self._pace.fast and self._pool.pump is not None else None

    async def _pump(self, job: Job) -> bool:
        """Have it moved; False where there is no pump to be had, or not any more."""
        assert self._pool.pump is not None
        self._job, self._counted = job, 0
        try:
            await self._pool.pump.run(job)
        except PumpUnavailable:
            return False
        finally:
            self._count_job()
            self._job = None
        return True

    def _count_job(self) -> None:
        if self._job is not None:
            more = self._job.moved - self._counted
            self._counted += more
            if more:
                self._account(more, time.monotonic() - self._job.moved_at)

    def _account(self, count: int, seconds_ago: float = 0.0) -> None:
        self._remaining -= count
        self._moved_at = trio.current_time() - seconds_ago
        if self._pace.took(count, self._moved_at):
            set_unsent_low_water(self._socket, UNSENT_LOW_WATER_FAST)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        except SinkClosed:
            self._closed = True
            raise

    def _check(self, count: int) -> None:
        if self._closed:
            raise SinkClosed("the reader of this answer is gone")
        if not 0 <= count <= self.remaining:
            raise ValueError(f"the answer has room for {self.remaining} more bytes, not for {count}")
