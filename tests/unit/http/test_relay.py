from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.http.dial import SMALL_RECEIVE_BUFFER
from peili.http.errors import SinkClosed, SourceEnded, SourceStalled
from peili.http.pace import FAST_BYTES, FAST_SECONDS
from peili.http.sink import Sink
from peili.http.source import Source
from peili.http.stages import PipeStage, StagePool, Way
from tests.unit.http.loopback import (
    Reader,
    open_descriptors,
    random_bytes,
    read_exactly,
    read_to_end,
    reset_on_close,
    send,
    tcp_pair,
)

MEGABYTE = 1_000_000


@dataclass
class Line:
    """peer -> source | sink -> reader"""

    peer: trio.socket.SocketType
    source_end: trio.socket.SocketType
    sink_end: trio.socket.SocketType
    reader: trio.socket.SocketType
    pool: StagePool

    def source(self, length: int, buffered: bytes = b"") -> Source:
        return Source(self.source_end, buffered, length)

    def sink(self, length: int, write_timeout: float = 300.0) -> Sink:
        return Sink(self.sink_end, length, write_timeout=write_timeout, pool=self.pool)


def low_water(line: Line) -> int:
    return line.source_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@asynccontextmanager
async def a_line(pipes: int = 4) -> AsyncIterator[Line]:
    peer, source_end = await tcp_pair()
    sink_end, reader = await tcp_pair()
    line = Line(peer, source_end, sink_end, reader, StagePool(pipes))
    try:
        yield line
        assert line.pool.lent == 0
    finally:
        for sock in (peer, source_end, sink_end, reader):
            sock.close()
        line.pool.close()
        assert line.pool.pipes == 0


@pytest.mark.parametrize("pipes", [4, 0], ids=["splice", "copy"])
async def test_bytes_arrive_as_they_were_sent(pipes: int) -> None:
    data = random_bytes(7 * MEGABYTE + 13)
    async with a_line(pipes) as line:
        source, sink = line.source(len(data), data[:5000]), line.sink(len(data) + 10)
        reading = Reader(line.reader)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, line.peer, data[5000:])
            nursery.start_soon(reading.run)
            assert await sink.relay(source, len(data), stall_timeout=10) == len(data)
            assert (source.remaining, sink.remaining) == (0, 10)
            line.sink_end.shutdown(socket.SHUT_WR)
        assert (reading.count, reading.digest) == (len(data), hashlib.sha256(data).digest())


@pytest.mark.parametrize(("pipes", "way"), [(4, Way.SPLICED), (0, Way.COPIED)], ids=["splice", "copy"])
async def test_every_byte_is_counted_by_its_way_and_with_pipes_none_is_copied(pipes: int, way: Way) -> None:
    data = random_bytes(7 * MEGABYTE + 13)
    nothing = dict.fromkeys(Way, 0)
    async with a_line(pipes) as line, trio.open_nursery() as nursery:
        assert line.pool.relayed == nothing
        nursery.start_soon(send, line.peer, data[100:])
        source, sink = line.source(len(data), data[:100]), line.sink(len(data))
        nursery.start_soon(partial(sink.relay, source, len(data), stall_timeout=10))
        assert await read_exactly(line.reader, len(data)) == data
        assert line.pool.relayed == {**nothing, way: len(data) - 100, Way.WITH_HEAD: 100}


async def test_only_what_came_into_the_sink_is_counted() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        nursery.start_soon(send, line.peer, bytes(20 * MEGABYTE))
        sink = line.sink(20 * MEGABYTE)
        nursery.start_soon(partial(sink.relay, line.source(20 * MEGABYTE), 20 * MEGABYTE, stall_timeout=10))
        await wait_all_tasks_blocked(0.01)
        moved = 20 * MEGABYTE - sink.remaining
        assert 0 < moved < 20 * MEGABYTE
        assert line.pool.lent == 1  # the reader takes nothing, so the pipe is full
        assert line.pool.relayed[Way.SPLICED] == moved
        nursery.cancel_scope.cancel()


async def test_a_part_of_the_source_leaves_the_rest_where_it_is() -> None:
    data = random_bytes(300_000)
    async with a_line() as line:
        source, sink = line.source(len(data), data[:1000]), line.sink(len(data))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, line.peer, data[1000:])
            await sink.relay(source, 400, stall_timeout=10)
            await sink.relay(source, 100_000, stall_timeout=10)
            await sink.relay(source, 0, stall_timeout=10)
            assert source.remaining == sink.remaining == 199_600
            assert await read_exactly(line.reader, 100_400) == data[:100_400]
            assert source.remaining == 199_600
            await sink.relay(source, 199_600, stall_timeout=10)
            assert await read_exactly(line.reader, 199_600) == data[100_400:]


@pytest.mark.parametrize("pipes", [4, 0], ids=["splice", "copy"])
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_a_source_that_ends_early_has_given_what_it_had_and_another_goes_on(pipes: int, reset: bool) -> None:
    data = random_bytes(3 * MEGABYTE)
    dies_at = 1_234_567
    async with a_line(pipes) as line, a_line(pipes) as second:
        source, sink = line.source(len(data)), line.sink(len(data))
        reading = Reader(line.reader)

        async def die() -> None:
            await send(line.peer, data[:dies_at])
            if reset:
                reset_on_close(line.peer)
            line.peer.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading.run)
            nursery.start_soon(die)
            with pytest.raises(SourceEnded) as caught:
                await sink.relay(source, len(data), stall_timeout=10)
            moved = caught.value.moved
            assert sink.remaining == len(data) - moved
            assert source.failed
            if not reset:  # a RST may overtake bytes
                assert moved == dies_at
            nursery.start_soon(send, second.peer, data[moved:])
            await sink.relay(second.source(len(data) - moved), len(data) - moved, stall_timeout=10)
            line.sink_end.shutdown(socket.SHUT_WR)
        assert (reading.count, reading.digest) == (len(data), hashlib.sha256(data).digest())


async def test_a_source_that_gives_nothing_more_is_stalled_at_an_exact_byte(mock_clock: MockClock) -> None:
    data = random_bytes(100_000)
    async with a_line() as line:
        source, sink = line.source(2 * MEGABYTE), line.sink(2 * MEGABYTE)
        await send(line.peer, data)
        async with trio.open_nursery() as nursery:

            async def relay() -> None:
                with pytest.raises(SourceStalled) as caught:
                    await sink.relay(source, 2 * MEGABYTE, stall_timeout=10)
                assert caught.value.moved == len(data)
                assert sink.remaining == 2 * MEGABYTE - len(data)
                assert trio.current_time() == pytest.approx(started + 10, abs=0.5)

            started = trio.current_time()
            nursery.start_soon(relay)
            assert await read_exactly(line.reader, len(data)) == data
            for _ in range(101):
                await wait_all_tasks_blocked(0.0005)
                mock_clock.jump(0.1)
        assert low_water(line) == 1
        assert not source.failed


async def test_a_slow_source_is_not_stalled_although_it_stays_below_the_low_water_mark(
    mock_clock: MockClock,
) -> None:
    piece = random_bytes(1000)
    async with a_line() as line:
        fast = random_bytes(600_000)
        total = len(fast) + 300 * len(piece)
        source, sink = line.source(total), line.sink(total)
        async with trio.open_nursery() as nursery:

            async def relay() -> None:
                await sink.relay(source, total, stall_timeout=1)

            nursery.start_soon(relay)
            nursery.start_soon(send, line.peer, fast)
            assert await read_exactly(line.reader, len(fast)) == fast
            for _ in range(300):  # 10 KB/s for half a minute, with a stall timeout of a second
                await send(line.peer, piece)
                await wait_all_tasks_blocked()
                mock_clock.jump(0.1)
            assert await read_exactly(line.reader, 300 * len(piece)) == 300 * piece


async def test_bytes_are_not_kept_back_for_longer_than_the_patience(mock_clock: MockClock) -> None:
    async with a_line() as line:
        source, sink = line.source(9 * MEGABYTE), line.sink(9 * MEGABYTE)
        async with trio.open_nursery() as nursery:

            async def relay() -> None:
                await sink.relay(source, 9 * MEGABYTE, stall_timeout=60)

            nursery.start_soon(relay)
            nursery.start_soon(send, line.peer, bytes(600_000))
            await read_exactly(line.reader, 600_000)
            await wait_all_tasks_blocked()
            assert low_water(line) > 1000
            await send(line.peer, b"late")
            mock_clock.jump(0.1)
            assert await read_exactly(line.reader, 4) == b"late"
            await wait_all_tasks_blocked()
            assert low_water(line) == 1
            nursery.cancel_scope.cancel()


async def test_the_low_water_mark_never_exceeds_what_is_wanted_and_is_put_back(mock_clock: MockClock) -> None:
    async with a_line() as line:
        source, sink = line.source(MEGABYTE), line.sink(MEGABYTE)
        async with trio.open_nursery() as nursery:

            async def relay() -> None:
                await sink.relay(source, 600_000, stall_timeout=60)

            nursery.start_soon(relay)
            nursery.start_soon(send, line.peer, bytes(599_000))
            await read_exactly(line.reader, 599_000)
            await wait_all_tasks_blocked()
            assert low_water(line) == 1000
            await send(line.peer, bytes(1000))  # wakes it without any time passing
        assert low_water(line) == 1
        assert source.remaining == sink.remaining == MEGABYTE - 600_000


async def test_a_slow_reader_does_not_make_its_source_look_stalled(mock_clock: MockClock) -> None:
    data = random_bytes(20 * MEGABYTE)
    async with a_line() as line:
        source, sink = line.source(len(data)), line.sink(len(data), write_timeout=10_000)
        async with trio.open_nursery() as nursery:

            async def relay() -> None:
                await sink.relay(source, len(data), stall_timeout=1)
                line.sink_end.shutdown(socket.SHUT_WR)

            nursery.start_soon(relay)
            nursery.start_soon(send, line.peer, data)
            for _ in range(20):
                await wait_all_tasks_blocked(0.001)
                mock_clock.jump(100)
            assert sink.remaining > 0
            assert await read_to_end(line.reader) == data


async def test_a_reader_that_takes_nothing_is_given_up(mock_clock: MockClock) -> None:
    async with a_line() as line:
        source, sink = line.source(50 * MEGABYTE), line.sink(50 * MEGABYTE, write_timeout=30)
        async with trio.open_nursery() as nursery:

            async def relay() -> None:
                with pytest.raises(SinkClosed, match="30 s"):
                    await sink.relay(source, 50 * MEGABYTE, stall_timeout=1000)
                nursery.cancel_scope.cancel()

            nursery.start_soon(relay)
            nursery.start_soon(send, line.peer, bytes(50 * MEGABYTE))
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(30)
        with pytest.raises(SinkClosed):
            await sink.write(b"x")


async def test_a_reader_that_goes_away_closes_the_sink() -> None:
    async with a_line() as line:
        source, sink = line.source(50 * MEGABYTE), line.sink(50 * MEGABYTE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, line.peer, bytes(50 * MEGABYTE))
            line.reader.close()
            with pytest.raises(SinkClosed):
                await sink.relay(source, 50 * MEGABYTE, stall_timeout=10)
            nursery.cancel_scope.cancel()
        assert line.pool.lent == 0


async def test_a_cancelled_relay_leaks_no_descriptor_and_returns_no_dirty_pipe(mock_clock: MockClock) -> None:
    before = open_descriptors()
    async with a_line() as line:
        line.pool.release(line.pool.acquire())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, line.peer, bytes(50 * MEGABYTE))

            async def relay() -> None:
                await line.sink(50 * MEGABYTE).relay(line.source(50 * MEGABYTE), 50 * MEGABYTE, stall_timeout=10)

            nursery.start_soon(relay)
            await wait_all_tasks_blocked(0.01)
            assert line.pool.lent == 1  # the reader takes nothing, so the pipe is full
            nursery.cancel_scope.cancel()
        assert (line.pool.lent, line.pool.pipes) == (0, 0)
    assert open_descriptors() == before


async def test_a_relay_that_waits_for_its_source_holds_no_pipe(mock_clock: MockClock) -> None:
    async with a_line() as line, trio.open_nursery() as nursery:

        async def relay() -> None:
            await line.sink(100).relay(line.source(100), 100, stall_timeout=10)

        nursery.start_soon(relay)
        await send(line.peer, b"x")
        assert await read_exactly(line.reader, 1) == b"x"
        await wait_all_tasks_blocked()
        assert (line.pool.lent, line.pool.pipes) == (0, 1)
        nursery.cancel_scope.cancel()


async def test_where_the_kernel_does_not_splice_bytes_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_splice(self: PipeStage, fileno: int, count: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(PipeStage, "fill", no_splice)
    data = random_bytes(MEGABYTE)
    async with a_line() as line, trio.open_nursery() as nursery:
        nursery.start_soon(send, line.peer, data)

        async def relay() -> None:
            await line.sink(len(data)).relay(line.source(len(data)), len(data), stall_timeout=10)

        nursery.start_soon(relay)
        assert await read_exactly(line.reader, len(data)) == data
        assert (line.pool.relayed[Way.COPIED], line.pool.relayed[Way.SPLICED]) == (len(data), 0)


async def test_the_sink_takes_no_more_than_was_promised() -> None:
    async with a_line() as line:
        sink = line.sink(3)
        checks: list[Callable[[], object]] = [
            lambda: sink.write(b"four"),
            lambda: sink.relay(line.source(4), 4, stall_timeout=1),
            lambda: sink.send_file(0, 0, 4),
            lambda: sink.relay(line.source(2), 3, stall_timeout=1),
            lambda: sink.relay(line.source(2), -1, stall_timeout=1),
        ]
        for check in checks:
            with pytest.raises(ValueError, match="bytes"):
                await check()  # type: ignore[misc]
        await sink.write(b"one")
        assert sink.remaining == 0


async def test_nothing_is_taken_for_a_slow_reader_that_its_socket_has_no_room_for() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        line.sink_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        source, sink = line.source(20 * MEGABYTE), line.sink(20 * MEGABYTE)
        nursery.start_soon(send, line.peer, bytes(20 * MEGABYTE))
        nursery.start_soon(partial(sink.relay, source, 20 * MEGABYTE, stall_timeout=10))
        for _ in range(20):
            await wait_all_tasks_blocked(0.01)
            assert line.pool.lent == 0
            assert 0 < source.remaining == sink.remaining < 20 * MEGABYTE
            await line.reader.recv(10_000)
        nursery.cancel_scope.cancel()


async def test_a_peer_may_send_far_ahead_only_for_a_fast_reader() -> None:
    def receive_buffer() -> int:
        return line.source_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    async with a_line() as line, trio.open_nursery() as nursery:
        line.source_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE_BUFFER)
        small = receive_buffer()
        source, sink = line.source(50 * MEGABYTE), line.sink(50 * MEGABYTE)
        nursery.start_soon(send, line.peer, bytes(50 * MEGABYTE))
        nursery.start_soon(partial(sink.relay, source, 50 * MEGABYTE, stall_timeout=10))
        await read_exactly(line.reader, 10_000)
        assert receive_buffer() == small
        await read_exactly(line.reader, 20 * MEGABYTE)
        assert receive_buffer() > small
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_slow_may_send_far_ahead_for_a_reader_that_is_not(mock_clock: MockClock) -> None:
    """It may be far away: little comes in a round trip, and only more in flight would make that faster."""
    piece = bytes(100_000)
    async with a_line() as line, trio.open_nursery() as nursery:
        line.source_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE_BUFFER)
        small = line.source_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        source, sink = line.source(50 * MEGABYTE), line.sink(50 * MEGABYTE)
        nursery.start_soon(partial(sink.relay, source, 50 * MEGABYTE, stall_timeout=10))
        for _ in range(2 * FAST_BYTES // len(piece)):
            await send(line.peer, piece)
            assert await read_exactly(line.reader, len(piece)) == piece
            mock_clock.jump(1.1 * FAST_SECONDS)
        assert line.source_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > small
        nursery.cancel_scope.cancel()


async def test_what_came_with_the_head_is_not_kept_once_it_is_used() -> None:
    async with a_line() as line:
        source = line.source(50_000, random_bytes(16_000))
        source.take_buffered(15_000)
        assert len(source.buffered) == 1000
        source.take_buffered(1000)
        assert source.buffered.obj == b""
        assert source.remaining == 34_000


async def test_readers_that_stop_leave_the_stages_to_others() -> None:
    """There are more of them than pipes, and a relay that comes later gets a pipe all the same."""
    pool, pairs = StagePool(pipes=1), [await tcp_pair() for _ in range(6)]

    def a_pipe_is_free() -> bool:
        stage = pool.acquire()
        pool.release(stage)
        return isinstance(stage, PipeStage)

    async with trio.open_nursery() as nursery:
        for (peer, source_end), (sink_end, _) in zip(pairs[::2], pairs[1::2], strict=True):
            source = Source(source_end, b"", 50 * MEGABYTE)
            sink = Sink(sink_end, 50 * MEGABYTE, write_timeout=100, pool=pool)
            nursery.start_soon(send, peer, bytes(50 * MEGABYTE))
            nursery.start_soon(partial(sink.relay, source, 50 * MEGABYTE, stall_timeout=100))
        await wait_all_tasks_blocked(0.05)
        with trio.fail_after(10):
            while not a_pipe_is_free():
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert pool.lent == 0
    pool.close()
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()
