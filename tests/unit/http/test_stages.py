from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from peili.http import stages
from peili.http.stages import (
    COPY_BUFFER_SIZE,
    LARGE_COPY_BUFFERS,
    PIPE_RETRY_AFTER,
    SMALL_COPY_BUFFER_SIZE,
    CopyStage,
    PipeStage,
    Stage,
    StagePool,
)
from tests.unit.http.loopback import open_descriptors, random_bytes


@contextlib.contextmanager
def a_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    with one, other:
        yield one, other


@pytest.mark.parametrize("stage", [PipeStage(), CopyStage(COPY_BUFFER_SIZE)], ids=["pipe", "copy"])
def test_bytes_come_out_as_they_went_in_in_any_portions(stage: Stage) -> None:
    data = random_bytes(50_000)
    with a_pair() as (write, source), a_pair() as (sink, read):
        write.sendall(data)
        result, filled = b"", 0
        for portion in (1, 10_000, 5, 30_000, 50_000):
            with contextlib.suppress(BlockingIOError):
                filled += stage.fill(source.fileno(), portion)
            assert stage.pending == filled - len(result)
            if portion != 5:
                given = stage.drain(sink.fileno(), more=False)
                result += read.recv(given)
        assert result == data[: len(result)]
        write.close()
        while stage.pending:
            result += read.recv(stage.drain(sink.fileno(), more=True))
        assert result == data[:filled]
    stage.close()


@pytest.mark.parametrize("kind", ["pipe", "copy"])
def test_an_empty_source_and_a_full_stage_would_block_and_an_end_is_zero(kind: str) -> None:
    stage: Stage = PipeStage() if kind == "pipe" else CopyStage(1000)
    with a_pair() as (write, source):
        with pytest.raises(BlockingIOError):
            stage.fill(source.fileno(), 10)
        write.send(bytes(100))
        write.shutdown(socket.SHUT_WR)
        assert stage.fill(source.fileno(), 1000) == 100
        assert stage.fill(source.fileno(), 1000) == 0
    with a_pair() as (write, source):
        with pytest.raises(BlockingIOError):  # noqa: PT012 - at some turn it is full
            for _ in range(100_000):
                with contextlib.suppress(BlockingIOError):
                    write.send(bytes(1000))
                stage.fill(source.fileno(), 100_000)
        assert 0 < stage.pending <= stage.size
    stage.close()


def test_pipes_are_used_again_and_dirty_ones_are_closed() -> None:
    before = open_descriptors()
    pool = StagePool(2)
    first = pool.acquire()
    pool.release(first)
    assert pool.acquire() is first
    with a_pair() as (write, source):
        write.send(b"x")
        first.fill(source.fileno(), 1)
    pool.release(first)
    assert (pool.pipes, pool.lent) == (0, 0)
    assert open_descriptors() == before
    assert isinstance(pool.acquire(), PipeStage)
    assert isinstance(pool.acquire(), PipeStage)
    assert isinstance(pool.acquire(), CopyStage)
    assert pool.lent == 3


def test_an_emptied_buffer_starts_at_its_beginning() -> None:
    pool = StagePool(0)
    stage = pool.acquire()
    with a_pair() as (write, source), a_pair() as (sink, read):
        for _ in range(3):
            write.send(bytes(COPY_BUFFER_SIZE))
            assert stage.fill(source.fileno(), COPY_BUFFER_SIZE) == COPY_BUFFER_SIZE
            while stage.pending:
                stage.drain(sink.fileno(), more=False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        read.recv(1 << 20)


def test_many_buffers_are_small_ones() -> None:
    pool = StagePool(0)
    sizes = [pool.acquire().size for _ in range(LARGE_COPY_BUFFERS + 2)]
    assert sizes == [COPY_BUFFER_SIZE] * LARGE_COPY_BUFFERS + [SMALL_COPY_BUFFER_SIZE] * 2


def test_bytes_that_are_put_by_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PUT_BY_BYTES", 1500)
    pool = StagePool(2)
    with a_pair() as (write, source):
        first, second = pool.acquire(), pool.acquire()
        for stage in (first, second):
            write.send(bytes(1000))
            stage.fill(source.fileno(), 1000)
    kept = pool.put_by(first)
    assert (kept.pending, kept.size, pool.put_by(kept)) == (1000, 1000, kept)
    assert pool.put_by(second) is second
    assert pool.lent == 2
    assert pool.acquire() is first
    pool.release(first)
    pool.release(kept)
    kept = pool.put_by(second)
    assert kept.pending == kept.size == 1000
    pool.release(kept)
    assert pool.lent == 0
    pool.close()


def test_where_the_kernel_grants_only_tiny_pipes_bytes_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    tried = 0
    real = os.pipe2

    def count(flags: int) -> tuple[int, int]:
        nonlocal tried
        tried += 1
        return real(flags)

    monkeypatch.setattr(os, "pipe2", count)
    monkeypatch.setattr(stages, "PIPE_SIZE", 4096)
    pool = StagePool()
    for _ in range(PIPE_RETRY_AFTER + 1):
        stage = pool.acquire()
        assert isinstance(stage, CopyStage)
        pool.release(stage)
    assert tried == 1  # not with every burst
    assert (pool.pipes, pool.lent) == (0, 0)
    assert open_descriptors() == before
    monkeypatch.undo()
    assert isinstance(pool.acquire(), PipeStage)


def test_where_there_are_no_descriptors_bytes_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none_left)
    assert isinstance(StagePool().acquire(), CopyStage)
