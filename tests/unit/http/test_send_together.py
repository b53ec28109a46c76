"""A head and its body go out in one piece, without being joined in memory."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peili.http.errors import SinkClosed
from peili.http.server import Exchange, Headers
from peili.http.transfer import CHUNK, send_together
from tests.unit.http.loopback import (
    GET,
    connect,
    random_bytes,
    read_exactly,
    read_head,
    send,
    serving,
    tcp_pair,
)

HEAD = b"a head\r\n\r\n"


@pytest.mark.parametrize("size", [0, 5, CHUNK, 3 * CHUNK + 7])
async def test_all_of_it_arrives_and_is_counted(size: int) -> None:
    body, counted = random_bytes(size), 0

    def account(count: int) -> None:
        nonlocal counted
        counted += count

    ours, client = await tcp_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_together, ours.fileno(), HEAD, body, account, 10)
        assert await read_exactly(client, len(HEAD) + size) == HEAD + body
    assert counted == len(HEAD) + size


@pytest.mark.parametrize("taken", [0, 1, len(HEAD), len(HEAD) + 1, len(HEAD) + 4])
async def test_where_the_socket_takes_only_a_part_the_rest_follows(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    def take_a_part(fileno: int, parts: Sequence[bytes]) -> int:
        if not taken:
            raise BlockingIOError
        return os.write(fileno, b"".join(parts)[:taken])

    monkeypatch.setattr(os, "writev", take_a_part)
    counts: list[int] = []
    ours, client = await tcp_pair()
    await send_together(ours.fileno(), HEAD, b"body", counts.append, 10)
    assert await read_exactly(client, len(HEAD) + 4) == HEAD + b"body"
    assert sum(counts) == len(HEAD) + 4


async def test_a_client_that_is_gone_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(fileno: int, parts: Sequence[bytes]) -> int:
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    monkeypatch.setattr(os, "writev", gone)
    ours, _ = await tcp_pair()
    with pytest.raises(SinkClosed):
        await send_together(ours.fileno(), HEAD, b"body", lambda _: None, 10)


async def test_a_stopped_reader_costs_no_copy_of_the_body() -> None:
    body = random_bytes(6_000_000)  # more than sockets take

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, Headers(), memoryview(body)[1:])

    async with serving(handler) as served:
        client = await connect(served.address)
        tracemalloc.start()
        try:
            await send(client, GET)
            assert await read_head(client)
            await wait_all_tasks_blocked(0.01)
            assert tracemalloc.get_traced_memory()[0] < len(body) // 10
        finally:
            tracemalloc.stop()
        assert served.server.statistics().in_flight == 1, "the reader was not slow enough"
        assert await read_exactly(client, len(body) - 1) == body[1:]
        client.close()
