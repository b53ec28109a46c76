from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from peili.http import page_cache, send_file
from peili.http.errors import SinkClosed
from peili.http.sink import Sink
from peili.http.stages import StagePool
from tests.unit.http.loopback import random_bytes, read_exactly, read_to_end, tcp_pair

DATA = random_bytes(9_000_001)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    fileno = os.open(path, os.O_RDONLY)
    yield fileno
    os.close(fileno)


async def received(file: int, offset: int, count: int) -> bytes:
    ours, theirs = await tcp_pair()
    sink = Sink(ours, count, write_timeout=10, pool=StagePool(0))
    result = b""

    async def read() -> None:
        nonlocal result
        result = await read_to_end(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await sink.send_file(file, offset, count)
        assert sink.remaining == 0
        ours.shutdown(socket.SHUT_WR)
    ours.close()
    theirs.close()
    return result


@pytest.mark.parametrize(
    ("offset", "count"), [(0, len(DATA)), (1, 1), (4095, 5_000_000), (len(DATA) - 1, 1), (5, 0)]
)
async def test_a_part_of_a_file_arrives(file: int, offset: int, count: int) -> None:
    assert await received(file, offset, count) == DATA[offset : offset + count]
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


async def test_a_cold_file_is_read_in_a_thread_and_arrives(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[int] = []
    real = page_cache._read_ahead

    def note(file: int, offset: int, end: int) -> float:
        trips.append(offset)
        return real(file, offset, end)

    monkeypatch.setattr(page_cache, "_read_ahead", note)
    monkeypatch.setattr(page_cache, "is_cached", lambda *_: False)
    assert await received(file, 0, len(DATA)) == DATA
    assert trips == [0, page_cache.COLD_CHUNK, 2 * page_cache.COLD_CHUNK]


async def test_what_was_just_written_is_cached_and_what_was_dropped_is_not(file: int) -> None:
    if not page_cache.is_cached(file, 0, len(DATA)):
        pytest.skip("this file system cannot tell what is cached (preadv2, RWF_NOWAIT)")
    assert page_cache.is_cached(file, 0, 1)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert not page_cache.is_cached(file, 0, len(DATA))
    assert await received(file, 0, len(DATA)) == DATA
    assert page_cache.is_cached(file, 0, len(DATA))


async def test_where_sendfile_does_not_work_bytes_are_copied(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sendfile(*_: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(send_file, "_sendfile", no_sendfile)
    assert await received(file, 3, 5_000_000) == DATA[3:5_000_003]


async def test_a_file_that_ends_too_early_is_an_error_and_the_count_is_exact() -> None:
    ours, theirs = await tcp_pair()
    sink = Sink(ours, 100, write_timeout=10, pool=StagePool(0))
    with tempfile.TemporaryFile() as short:
        short.write(b"x" * 60)
        short.flush()
        with pytest.raises(OSError, match="40 bytes before"):
            await sink.send_file(short.fileno(), 0, 100)
    assert sink.remaining == 40
    await sink.write(b"y" * 40)
    assert await read_exactly(theirs, 100) == b"x" * 60 + b"y" * 40
    ours.close()
    theirs.close()


async def test_a_file_that_cannot_be_read_is_an_error_of_the_file() -> None:
    ours, theirs = await tcp_pair()
    sink = Sink(ours, 100, write_timeout=10, pool=StagePool(0))
    with tempfile.TemporaryFile() as gone:
        closed = os.dup(gone.fileno())
    os.close(closed)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number says it
        await sink.send_file(closed, 0, 100)
    assert caught.value.errno == errno.EBADF
    ours.close()
    theirs.close()


async def test_a_reader_that_goes_away_closes_the_sink(file: int) -> None:
    ours, theirs = await tcp_pair()
    sink = Sink(ours, 3 * len(DATA), write_timeout=10, pool=StagePool(0))
    theirs.close()
    with pytest.raises(SinkClosed):  # noqa: PT012 - the first may still go into the socket
        for _ in range(3):
            await sink.send_file(file, 0, len(DATA))
    with pytest.raises(SinkClosed):
        await sink.send_file(file, 0, 1)
    ours.close()


async def test_a_socket_that_took_a_part_is_waited_for_before_it_is_tried_again(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    real = os.sendfile

    def sendfile(*arguments: int) -> int:
        nonlocal refused
        try:
            return real(*arguments)
        except BlockingIOError:
            refused += 1
            raise

    monkeypatch.setattr(os, "sendfile", sendfile)
    assert await received(file, 0, len(DATA)) == DATA
    assert refused <= 1
