from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.http.errors import SinkClosed, SourceEnded, SourceStalled
from peili.http.sink import Sink
from peili.http.stages import StagePool
from tests.unit.http.loopback import open_descriptors, random_bytes, read_exactly, read_to_end, tcp_pair

MEBIBYTE = 1024 * 1024
DATA = random_bytes(5 * MEBIBYTE + 17)


class Growing:
    """A file that the test lets grow; `asked` counts the looks at its size."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.fileno = os.open(path, os.O_RDONLY)
        self.asked = 0
        self.waits: list[tuple[int, float]] = []
        self._ended = False
        self._changed = trio.Event()

    def size(self) -> int:
        self.asked += 1
        return os.fstat(self.fileno).st_size

    def ended(self) -> bool:
        return self._ended

    async def wait(self, beyond: int, timeout: float) -> bool:
        self.waits.append((beyond, timeout))
        with trio.move_on_after(timeout):
            while os.fstat(self.fileno).st_size <= beyond and not self._ended:
                await self._changed.wait()
        return os.fstat(self.fileno).st_size > beyond

    def grow_to(self, count: int) -> None:
        with self.path.open("ab") as file:
            file.write(DATA[file.tell() : count])
        self._tell()

    def end(self) -> None:
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Growing]:
    file = Growing(tmp_path / "data")
    yield file
    os.close(file.fileno)


@dataclass
class Line:
    """An answer's sink and the client's end."""

    sink: Sink
    ours: trio.socket.SocketType
    client: trio.socket.SocketType


@asynccontextmanager
async def a_line(length: int, write_timeout: float = 300.0) -> AsyncIterator[Line]:
    ours, client = await tcp_pair()
    yield Line(Sink(ours, length, write_timeout=write_timeout, pool=StagePool(0)), ours, client)
    ours.close()
    client.close()


async def test_what_is_there_and_what_arrives_reaches_the_reader_in_order(file: Growing) -> None:
    file.grow_to(MEBIBYTE)
    received = b""

    async def read(line: Line) -> None:
        nonlocal received
        received = await read_to_end(line.client)

    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:
        nursery.start_soon(read, line)

        async def send() -> None:
            await line.sink.send_growing(file, 0, len(DATA), stall_timeout=10)
            line.ours.close()

        nursery.start_soon(send)
        for count in (MEBIBYTE + 1, 3 * MEBIBYTE, 5 * MEBIBYTE, len(DATA)):
            await wait_all_tasks_blocked()
            file.grow_to(count)
    assert hashlib.sha256(received).digest() == hashlib.sha256(DATA).digest()
    assert line.sink.remaining == 0


async def test_each_piece_goes_out_before_the_next_one_arrives(file: Growing) -> None:
    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            await line.sink.send_growing(file, 0, 3000, stall_timeout=10)

        nursery.start_soon(send)
        for start in range(0, 3000, 1000):
            file.grow_to(start + 1000)
            with trio.fail_after(5):
                assert await read_exactly(line.client, 1000) == DATA[start : start + 1000]
    assert line.sink.remaining == len(DATA) - 3000


async def test_a_part_beyond_what_is_there_waits_for_its_bytes_and_ends_with_its_count(file: Growing) -> None:
    file.grow_to(1000)
    start, count = 2 * MEBIBYTE, 5000
    async with a_line(count) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            await line.sink.send_growing(file, start, count, stall_timeout=10)

        nursery.start_soon(send)
        for size in (MEBIBYTE, start, start + 10):
            await wait_all_tasks_blocked()
            file.grow_to(size)
        assert await read_exactly(line.client, 10) == DATA[start : start + 10]
        file.grow_to(len(DATA))
        assert await read_exactly(line.client, count - 10) == DATA[start + 10 : start + count]
    assert line.sink.remaining == 0


async def test_a_file_that_stops_growing_is_stalled_at_an_exact_byte(file: Growing, mock_clock: MockClock) -> None:
    file.grow_to(70_000)
    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(SourceStalled) as caught:
                await line.sink.send_growing(file, 0, len(DATA), stall_timeout=10)
            assert caught.value.moved == 70_000
            assert trio.current_time() - started == 10

        started = trio.current_time()
        nursery.start_soon(send)
        await read_exactly(line.client, 70_000)
        await wait_all_tasks_blocked()
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        mock_clock.jump(0.1)
    assert line.sink.remaining == len(DATA) - 70_000


async def test_growth_below_the_part_that_is_asked_for_is_progress(file: Growing, mock_clock: MockClock) -> None:
    start = 5 * MEBIBYTE
    async with a_line(17) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            await line.sink.send_growing(file, start, 17, stall_timeout=10)

        nursery.start_soon(send)
        for step in range(1, 6):
            await wait_all_tasks_blocked()
            mock_clock.jump(9)
            await wait_all_tasks_blocked()
            file.grow_to(step * MEBIBYTE)
        await wait_all_tasks_blocked()
        mock_clock.jump(9)
        file.grow_to(len(DATA))
        assert await read_exactly(line.client, 17) == DATA[start:]


async def test_a_file_that_drips_is_stalled(file: Growing, mock_clock: MockClock) -> None:
    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(SourceStalled) as caught:
                await line.sink.send_growing(file, 0, len(DATA), stall_timeout=10)
            assert caught.value.moved == 5

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        for count in range(1, 6):
            file.grow_to(count)
            # Where a file system tells nothing of its page cache (tmpfs), a thread reads the byte first.
            assert await read_exactly(line.client, 1) == DATA[count - 1 : count]
            await wait_all_tasks_blocked()
            mock_clock.jump(2)


async def test_a_slow_reader_does_not_make_the_file_look_stalled(file: Growing, mock_clock: MockClock) -> None:
    file.grow_to(5 * MEBIBYTE)
    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            await line.sink.send_growing(file, 0, len(DATA), stall_timeout=1)

        nursery.start_soon(send)
        for _ in range(20):
            await wait_all_tasks_blocked()
            mock_clock.jump(10)
        assert await read_exactly(line.client, 5 * MEBIBYTE) == DATA[: 5 * MEBIBYTE]
        file.grow_to(len(DATA))
        await read_exactly(line.client, 17)


async def test_a_file_that_ends_early_is_an_error_once_its_last_byte_went_out(file: Growing) -> None:
    file.grow_to(1000)
    async with a_line(2000) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(SourceEnded) as caught:
                await line.sink.send_growing(file, 0, 2000, stall_timeout=10)
            assert caught.value.moved == 1500

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        file.grow_to(1500)
        file.end()
        assert await read_exactly(line.client, 1500) == DATA[:1500]
    assert line.sink.remaining == 500


async def test_another_file_goes_on_where_one_ended(file: Growing, tmp_path: Path) -> None:
    other = Growing(tmp_path / "other")
    other.grow_to(len(DATA))
    file.grow_to(1000)
    file.end()
    async with a_line(9000) as line:
        with pytest.raises(SourceEnded) as caught:
            await line.sink.send_growing(file, 0, 9000, stall_timeout=10)
        moved = caught.value.moved
        await line.sink.send_growing(other, moved, 9000 - moved, stall_timeout=10)
        assert await read_exactly(line.client, 9000) == DATA[:9000]
    os.close(other.fileno)


async def test_what_is_complete_is_sent_although_the_file_has_ended(file: Growing) -> None:
    file.grow_to(3000)
    file.end()
    async with a_line(3000) as line:
        await line.sink.send_growing(file, 0, 3000, stall_timeout=10)
        assert await read_exactly(line.client, 3000) == DATA[:3000]
        assert file.waits == []


async def test_a_file_that_is_cut_is_an_error(file: Growing) -> None:
    file.grow_to(3000)
    async with a_line(9000) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(SourceEnded, match="cut from 3000 to 10 bytes") as caught:
                await line.sink.send_growing(file, 0, 9000, stall_timeout=10)
            assert caught.value.moved == 3000

        nursery.start_soon(send)
        await read_exactly(line.client, 3000)
        await wait_all_tasks_blocked()
        os.truncate(file.path, 10)
        file.end()


async def test_a_file_that_cannot_be_read_is_its_own_fault_and_not_the_clients(file: Growing) -> None:
    file.grow_to(10)
    spare = os.dup(file.fileno)
    os.close(spare)

    class Unreadable(Growing):
        def size(self) -> int:
            return 100

    unreadable = Unreadable(file.path)
    os.close(unreadable.fileno)
    unreadable.fileno = spare
    async with a_line(100) as line:
        with pytest.raises(SourceEnded, match="cannot be read"):
            await line.sink.send_growing(unreadable, 0, 100, stall_timeout=10)
        assert line.sink.remaining == 100


async def test_a_reader_that_goes_away_closes_the_sink(file: Growing) -> None:
    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(SinkClosed):
                await line.sink.send_growing(file, 0, len(DATA), stall_timeout=10)

        nursery.start_soon(send)
        line.client.close()
        for count in (MEBIBYTE, 3 * MEBIBYTE, len(DATA)):
            await wait_all_tasks_blocked()
            file.grow_to(count)
        file.end()


async def test_cancelled_while_it_waits_the_count_is_exact_and_nothing_is_left(file: Growing) -> None:
    file.grow_to(1000)
    async with a_line(len(DATA)) as line:
        before = open_descriptors()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await line.sink.send_growing(file, 0, len(DATA), stall_timeout=10)

            nursery.start_soon(send)
            await read_exactly(line.client, 1000)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert line.sink.remaining == len(DATA) - 1000
        assert open_descriptors() == before


async def test_more_than_was_promised_is_refused(file: Growing) -> None:
    async with a_line(10) as line:
        with pytest.raises(ValueError, match="room for 10 more bytes"):
            await line.sink.send_growing(file, 0, 11, stall_timeout=10)


async def test_it_waits_for_growth_and_never_asks_in_a_loop(file: Growing, mock_clock: MockClock) -> None:
    async with a_line(len(DATA)) as line, trio.open_nursery() as nursery:

        async def send() -> None:
            await line.sink.send_growing(file, 0, len(DATA), stall_timeout=10)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        file.grow_to(1000)
        assert await read_exactly(line.client, 1000) == DATA[:1000]
        await wait_all_tasks_blocked()
        assert file.waits == [(0, 10), (1000, 10)]
        assert file.asked <= 4
        nursery.cancel_scope.cancel()
