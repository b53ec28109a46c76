"""Fast transfers through the pump's thread, on real sockets and real time."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from peili.http import file_job, page_cache, pump
from peili.http.dial import SMALL_RECEIVE_BUFFER
from peili.http.errors import SinkClosed, SourceEnded, SourceStalled
from peili.http.file_job import FileJob
from peili.http.pump import Job, Pump, PumpUnavailable
from peili.http.relay_job import RelayJob
from peili.http.sink import Sink
from peili.http.source import Source
from peili.http.stages import StagePool, Way
from tests.unit.http.loopback import (
    Reader,
    open_descriptors,
    random_bytes,
    read_to_end,
    reset_on_close,
    send,
    tcp_pair,
)

MEGABYTE = 1_000_000
DATA = random_bytes(24 * MEGABYTE + 7)


@asynccontextmanager
async def a_line(pipes: int = 4) -> AsyncIterator[SimpleNamespace]:
    """peer -> source | sink -> reader, with a pump."""
    peer, source_end = await tcp_pair()
    sink_end, reader = await tcp_pair()
    line = SimpleNamespace(peer=peer, source_end=source_end, sink_end=sink_end, reader=reader)
    line.pump = Pump()
    line.pool = StagePool(pipes, pump=line.pump)
    try:
        with trio.fail_after(30):
            yield line
        assert len(line.pump) == 0
        assert line.pool.lent == 0
    finally:
        for sock in (peer, source_end, sink_end, reader):
            sock.close()
        line.pool.close()


def sink_of(line: SimpleNamespace, length: int, write_timeout: float = 20.0) -> Sink:
    return Sink(line.sink_end, length, write_timeout=write_timeout, pool=line.pool)


async def pumped(line: SimpleNamespace) -> None:
    """Wait until the pump has it."""
    while not len(line.pump):
        await trio.sleep(0.001)


@pytest.mark.parametrize(("pipes", "way"), [(4, Way.SPLICED), (0, Way.COPIED)], ids=["splice", "copy"])
async def test_a_fast_relay_is_pumped_and_counted_while_it_goes_on(pipes: int, way: Way) -> None:
    async with a_line(pipes) as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA) + 10), Reader(line.reader)
        half = len(DATA) // 2
        more = trio.Event()

        async def peer() -> None:
            await send(line.peer, DATA[:half])
            await more.wait()
            await send(line.peer, DATA[half:])

        async def look() -> None:
            await pumped(line)
            while sink.remaining > len(DATA) + 10 - half:  # nobody but the pump counts
                await trio.sleep(0.001)
            assert sink.remaining == len(DATA) + 10 - half
            assert trio.current_time() - sink.moved_at < 5
            more.set()

        nursery.start_soon(peer)
        nursery.start_soon(reader.run)
        nursery.start_soon(look)
        source = Source(line.source_end, b"", len(DATA))
        assert await sink.relay(source, len(DATA), stall_timeout=10) == len(DATA)
        assert (source.remaining, sink.remaining) == (0, 10)
        assert line.source_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        line.sink_end.shutdown(socket.SHUT_WR)
        await more.wait()
        assert line.pool.relayed[way] == len(DATA)
        nursery.cancel_scope.deadline = trio.current_time() + 5
        while not reader.has_read(DATA):
            await trio.sleep(0.01)


async def test_a_source_that_ends_does_so_at_an_exact_byte_and_another_goes_on() -> None:
    at = 15 * MEGABYTE + 1
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        other, other_end = await tcp_pair()

        async def peer() -> None:
            await send(line.peer, DATA[:at])
            line.peer.close()

        nursery.start_soon(peer)
        nursery.start_soon(reader.run)
        source = Source(line.source_end, b"", len(DATA))
        with pytest.raises(SourceEnded, match=f"connection ended {len(DATA) - at} bytes before the end") as caught:
            await sink.relay(source, len(DATA), stall_timeout=10)
        assert (caught.value.moved, sink.remaining, source.remaining) == (at, len(DATA) - at, len(DATA) - at)
        assert source.failed
        nursery.start_soon(send, other, DATA[at:])
        await sink.relay(Source(other_end, b"", len(DATA) - at), len(DATA) - at, stall_timeout=10)
        line.sink_end.shutdown(socket.SHUT_WR)
        while not reader.has_read(DATA):
            await trio.sleep(0.01)
        other.close()
        other_end.close()


async def test_a_source_whose_connection_breaks_has_ended() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        nursery.start_soon(reader.run)
        nursery.start_soon(send, line.peer, DATA[: 8 * MEGABYTE])

        async def breaks() -> None:
            await pumped(line)
            while sink.remaining > len(DATA) - 8 * MEGABYTE:
                await trio.sleep(0.001)
            reset_on_close(line.peer)
            line.peer.close()

        nursery.start_soon(breaks)
        with pytest.raises(SourceEnded, match="broke") as caught:
            await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=10)
        assert caught.value.moved == 8 * MEGABYTE == len(DATA) - sink.remaining
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("drip", [0, 20], ids=["silent", "dripping"])
async def test_a_source_that_stops_is_stalled_after_the_stall_timeout(drip: int) -> None:
    at = 8 * MEGABYTE
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        stopped_at = 0.0
        dripped = 0

        async def peer() -> None:
            nonlocal stopped_at, dripped
            await send(line.peer, DATA[:at])
            while sink.remaining > len(DATA) - at:
                await trio.sleep(0.001)
            stopped_at = trio.current_time()
            while drip:
                await line.peer.send(DATA[at + dripped : at + dripped + drip])
                dripped += drip
                await trio.sleep(0.1)

        nursery.start_soon(peer)
        nursery.start_soon(reader.run)
        with pytest.raises(SourceStalled) as caught:
            await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=1)
        assert 0.9 <= trio.current_time() - stopped_at < 2.5
        assert at <= caught.value.moved <= at + dripped
        assert caught.value.moved == len(DATA) - sink.remaining
        nursery.cancel_scope.cancel()


async def test_a_reader_that_stops_gives_its_pipe_to_others_and_may_go_on() -> None:
    async with a_line(pipes=1) as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        reader.stop_at = 5 * MEGABYTE
        nursery.start_soon(send, line.peer, DATA)
        nursery.start_soon(reader.run)

        async def look() -> None:
            await pumped(line)
            while len(line.pump):  # the sink is full: trio's side has it now
                await trio.sleep(0.01)
            while not line.pool._idle:
                await trio.sleep(0.01)
            reader.stop_at = 1 << 60
            nursery.start_soon(reader.run)

        nursery.start_soon(look)
        await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=0.2)
        line.sink_end.shutdown(socket.SHUT_WR)
        while not reader.has_read(DATA):
            await trio.sleep(0.01)


async def test_a_reader_that_leaves_closes_the_sink() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        reader.stop_at = 5 * MEGABYTE
        nursery.start_soon(send, line.peer, DATA)

        async def leaves() -> None:
            await reader.run()
            await pumped(line)
            reset_on_close(line.reader)
            line.reader.close()

        nursery.start_soon(leaves)
        with pytest.raises(SinkClosed):
            await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=10)
        with pytest.raises(SinkClosed):
            await sink.write(b"more")
        nursery.cancel_scope.cancel()


async def test_a_cancelled_relay_is_exact_and_the_pump_touches_nothing_more() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        before = open_descriptors()
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        source = Source(line.source_end, b"", len(DATA))
        nursery.start_soon(send, line.peer, DATA)
        nursery.start_soon(reader.run)
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await pumped(line)
                while sink.remaining > len(DATA) - 9 * MEGABYTE:
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            await sink.relay(source, len(DATA), stall_timeout=10)
        assert scope.cancelled_caught
        assert len(line.pump) == 0
        taken = len(DATA) - sink.remaining
        assert source.remaining <= sink.remaining  # what was in the pipe is gone
        await trio.sleep(0.2)
        assert taken == len(DATA) - sink.remaining
        line.sink_end.shutdown(socket.SHUT_WR)
        while not reader.has_read(DATA[:taken]):
            await trio.sleep(0.01)
        assert open_descriptors() - before <= 4  # the pump's own two, and a pipe that may be lent again
        nursery.cancel_scope.cancel()


async def test_without_a_thread_bytes_are_moved_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object, **__: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(
        pump, "threading", SimpleNamespace(Lock=threading.Lock, Event=threading.Event, Thread=no_thread)
    )
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        nursery.start_soon(send, line.peer, DATA)
        nursery.start_soon(reader.run)
        await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=10)
        line.sink_end.shutdown(socket.SHUT_WR)
        while not reader.has_read(DATA):
            await trio.sleep(0.01)


async def test_a_closed_pump_takes_nothing() -> None:
    closed, job = Pump(), Ready()
    closed.close()
    with pytest.raises(PumpUnavailable, match="closed"):
        await closed.run(job)
    os.close(job.wait_for[0])


class Ready(Job):
    """Its turn comes at once."""

    def __init__(self, error: Exception | None = None) -> None:
        self._descriptor = os.eventfd(1)
        super().__init__((self._descriptor, select.EPOLLIN))
        self._error = error
        self.turns = 0

    def turn(self, now: float) -> bool:
        self.turns += 1
        if self._error is not None:
            raise self._error
        return self.turns < 3

    def is_due(self, now: float) -> bool:
        return False


async def test_what_a_turn_raises_is_for_its_own_task_and_others_go_on() -> None:
    its, bad, good = Pump(), Ready(ZeroDivisionError("a bug")), Ready()
    with trio.fail_after(10), pytest.raises(ZeroDivisionError):
        await its.run(bad)
    with trio.fail_after(10):
        await its.run(good)
    assert (bad.turns, good.turns, len(its)) == (1, 3, 0)
    its.close()
    for job in (bad, good):
        os.close(job.wait_for[0])


async def test_a_descriptor_that_cannot_be_waited_for_is_no_job() -> None:
    its, job = Pump(), Ready()
    os.close(job.wait_for[0])
    with pytest.raises(PumpUnavailable):
        await its.run(job)
    assert len(its) == 0
    its.close()


class Changing(Ready):
    """Waits for something else after its first turn, which moves a byte."""

    def turn(self, now: float) -> bool:
        self.moved += 1
        self.wait_for = (self.elsewhere, select.EPOLLIN)
        return True

    elsewhere = -1


async def test_a_job_whose_next_descriptor_cannot_be_waited_for_is_given_back(tmp_path: Path) -> None:
    its, job = Pump(), Changing()
    own = job.wait_for[0]
    with (tmp_path / "file").open("wb") as no_socket:  # epoll_ctl(2): EPERM
        job.elsewhere = no_socket.fileno()
        with trio.fail_after(10), pytest.raises(PumpUnavailable, match="not permitted"):
            await its.run(job)
    assert (job.moved, len(its)) == (1, 0)
    its.close()
    os.close(own)


async def test_jobs_of_a_pump_that_ends_are_given_back() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        half = len(DATA) // 2

        async def peer() -> None:
            await send(line.peer, DATA[:half])
            while sink.remaining > len(DATA) - half:
                await trio.sleep(0.001)
            await pumped(line)
            line.pump.close()
            await send(line.peer, DATA[half:])

        nursery.start_soon(peer)
        nursery.start_soon(reader.run)
        await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=10)
        assert len(line.pump) == 0
        line.sink_end.shutdown(socket.SHUT_WR)
        while not reader.has_read(DATA):
            await trio.sleep(0.01)


class Waiting(Ready):
    """A turn that waits, as for a page that was evicted."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.goes_on = threading.Event(), threading.Event()

    def turn(self, now: float) -> bool:
        self.began.set()
        self.goes_on.wait(10)
        return False


async def test_a_turn_that_waits_keeps_nobody_from_taking_another_job_away() -> None:
    its, waits, other = Pump(), Waiting(), Ready()
    os.eventfd_read(other.wait_for[0])  # its turn does not come
    async with trio.open_nursery() as nursery:
        nursery.start_soon(its.run, waits)
        with trio.fail_after(5):
            while not waits.began.is_set():
                await trio.sleep(0.001)
        with trio.move_on_after(0.05) as scope:
            await its.run(other)
        assert scope.cancelled_caught
        assert not waits.goes_on.is_set()
        assert len(its) == 1
        waits.goes_on.set()
    assert (other.turns, len(its)) == (0, 0)
    its.close()
    for job in (waits, other):
        os.close(job.wait_for[0])


async def test_a_quiet_source_is_given_back_with_how_long_it_was_waited_for() -> None:
    async with a_line() as line:
        source = Source(line.source_end, b"", len(DATA))
        job = RelayJob(source, line.sink_end.fileno(), len(DATA), line.pool, low_water=1)
        begun = job.moved_at
        assert job.turn(begun + 0.2)
        await line.peer.send(DATA[:500])  # a drip
        assert job.turn(begun + 0.25)
        assert not job.turn(begun + 0.45)
        assert job.waited == pytest.approx(0.45)
        assert (job.moved, source.remaining, job.stage) == (500, len(DATA) - 500, None)


# Files


@pytest.fixture(params=["disk", "memory"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """In a file system that can tell what is cached, where there is one here, and in one that cannot."""
    with tempfile.NamedTemporaryFile(dir=tmp_path if request.param == "disk" else "/dev/shm") as made:
        made.write(DATA)
        made.flush()
        yield made.fileno()


async def sent(line: SimpleNamespace, file: int, data: bytes, write_timeout: float = 20.0) -> Sink:
    sink, result = sink_of(line, len(data), write_timeout), b""

    async def read() -> None:
        nonlocal result
        result = await read_to_end(line.reader)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await sink.send_file(file, 1, len(data))
        line.sink_end.shutdown(socket.SHUT_WR)
    assert hashlib.sha256(result).digest() == hashlib.sha256(data).digest()
    return sink


async def test_a_file_is_pumped(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = 0
    run = Pump.run

    async def note(self: Pump, job: Job) -> None:
        nonlocal moved
        await run(self, job)
        moved += job.moved

    monkeypatch.setattr(Pump, "run", note)
    async with a_line() as line:
        sink = await sent(line, file, DATA[1:])
        assert sink.remaining == 0
    assert moved > len(DATA) // 2


async def test_what_is_not_in_memory_is_read_by_other_threads(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trips, real = [], page_cache._read_ahead

    def note(file: int, offset: int, end: int) -> float:
        trips.append((offset, threading.current_thread().name))
        return real(file, offset, end)

    for module in (page_cache, file_job):
        monkeypatch.setattr(module, "is_cached", lambda *_: False)
    monkeypatch.setattr(page_cache, "_read_ahead", note)
    async with a_line() as line:
        await sent(line, file, DATA[1:])
    assert [offset for offset, _ in trips] == list(range(1, len(DATA), page_cache.COLD_CHUNK))
    assert all("peili" not in name for _, name in trips)


async def test_a_file_that_is_cut_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA)), Reader(line.reader)
        reader.stop_at = 4 * MEGABYTE
        nursery.start_soon(reader.run)

        async def cut() -> None:
            await pumped(line)
            while reader.count < reader.stop_at:
                await trio.sleep(0.001)
            os.truncate(path, 5 * MEGABYTE)
            reader.stop_at = 1 << 60
            nursery.start_soon(reader.run)

        nursery.start_soon(cut)
        with path.open("rb") as opened, pytest.raises(OSError, match="before its promised length") as caught:
            await sink.send_file(opened.fileno(), 0, len(DATA))
        assert caught.value.errno == errno.EIO
        nursery.cancel_scope.cancel()


async def test_a_reader_that_takes_nothing_of_a_file_is_given_up(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_job, "HOLD", 0.2)
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, len(DATA), 0.5), Reader(line.reader)
        reader.stop_at = 5 * MEGABYTE
        nursery.start_soon(reader.run)
        with pytest.raises(SinkClosed, match="took nothing"):
            await sink.send_file(file, 0, len(DATA))
        assert 0 < sink.remaining < len(DATA)


async def test_a_reader_that_has_stopped_before_the_first_turn_is_given_up(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_job, "HOLD", 0.2)
    async with a_line() as line:
        for _ in range(20):  # the kernel moves what is written on into the reader's socket, a while later
            with suppress(BlockingIOError):
                while True:
                    os.write(line.sink_end.fileno(), DATA[:MEGABYTE])
            await trio.sleep(0.02)
        job = FileJob(line.sink_end.fileno(), file, 0, len(DATA), warm_until=len(DATA))
        await line.pump.run(job)
        assert (job.moved, job.cold) == (0, False)


async def test_a_second_source_for_a_fast_reader_may_send_far_ahead_from_the_start() -> None:
    async with a_line() as line, trio.open_nursery() as nursery:
        sink, reader = sink_of(line, 2 * len(DATA)), Reader(line.reader)
        other, other_end = await tcp_pair()
        nursery.start_soon(reader.run)
        nursery.start_soon(send, line.peer, DATA)
        await sink.relay(Source(line.source_end, b"", len(DATA)), len(DATA), stall_timeout=10)
        before = other_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        other_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE_BUFFER)
        small = other_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert small != before

        async def look() -> None:
            await pumped(line)
            assert other_end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > small
            await send(other, DATA)

        nursery.start_soon(look)
        await sink.relay(Source(other_end, b"", len(DATA)), len(DATA), stall_timeout=10)
        nursery.cancel_scope.cancel()
        other.close()
        other_end.close()


async def test_many_at_once_share_one_thread_and_few_pipes() -> None:
    threads = threading.active_count()
    async with a_line(pipes=2) as line:
        pairs = [await tcp_pair() for _ in range(16)]
        readers = []
        async with trio.open_nursery() as nursery:
            for (peer, source_end), (sink_end, reader) in zip(pairs[::2], pairs[1::2], strict=True):
                sink = Sink(sink_end, len(DATA), write_timeout=20, pool=line.pool)
                readers.append(Reader(reader))
                readers[-1].stop_at = len(DATA)
                nursery.start_soon(send, peer, DATA)
                nursery.start_soon(readers[-1].run)

                async def relay(sink: Sink = sink, source_end: trio.socket.SocketType = source_end) -> None:
                    await sink.relay(Source(source_end, b"", len(DATA)), len(DATA), stall_timeout=10)

                nursery.start_soon(relay)
        assert all(reader.has_read(DATA) for reader in readers)
        assert line.pool.pipes <= 2
        assert threading.active_count() <= threads + 1
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()
