"""How connections end: with FIN and never with RST; and caps, drain, accept."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.http.errors import SinkClosed, SourceEnded
from peili.http.server import Exchange, Headers, Limits, Server
from tests.unit.http.loopback import (
    GET,
    connect,
    hello,
    open_descriptors,
    read_exactly,
    read_head,
    read_to_end,
    reset_on_close,
    send,
    serving,
)


async def give_half(exchange: Exchange) -> None:
    sink = await exchange.start(200, Headers(), 10)
    await sink.write(b"12345")
    if exchange.request.target == "/raise":
        raise SourceEnded("all sources are gone", 5)
    if exchange.request.target == "/sink":
        raise SinkClosed("gone")


@pytest.mark.parametrize("target", [b"/return", b"/raise", b"/sink"])
async def test_a_body_that_ends_early_ends_with_fin_although_the_client_sent_more(target: bytes) -> None:
    told: list[Exception] = []
    async with serving(give_half, on_error=lambda _, error: told.append(error)) as served:
        client = await connect(served.address)
        await send(client, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target + 2000 * GET)
        await read_head(client)
        assert await read_to_end(client) == b"12345"  # a RST would raise ConnectionResetError
        client.close()
    assert [type(error) for error in told] == ([SourceEnded] if target == b"/raise" else [])


async def test_a_cancelled_server_ends_its_answers_with_fin_and_loses_no_byte() -> None:
    async def hang(exchange: Exchange) -> None:
        sink = await exchange.start(200, Headers(), 1_000_000)
        await sink.write(bytes(200_000))  # more than the client's socket takes without being read
        await trio.sleep_forever()

    async with serving(hang) as served:
        client = await connect(served.address)
        await send(client, GET)
        await read_head(client)
        await send(client, 1000 * GET)  # nobody reads this before the end
        await wait_all_tasks_blocked()
        served.scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            # Closed with unread bytes in it, our socket would send RST and forget what it had not sent.
            assert await read_to_end(client) == bytes(200_000)


async def test_a_client_that_does_not_close_after_our_fin_is_closed_in_bounded_time(mock_clock: MockClock) -> None:
    async with serving(give_half, Limits(linger_timeout=5)) as served:
        client = await connect(served.address)
        await send(client, GET)
        await read_head(client)
        assert await read_to_end(client) == b"12345"
        await wait_all_tasks_blocked()
        assert served.server.statistics().connections == 1
        mock_clock.jump(5)
        await wait_all_tasks_blocked()
        assert served.server.statistics().connections == 0


async def test_clients_that_reset_are_normal() -> None:
    async with serving(hello) as served:
        for request in (b"", b"GET /", GET):
            client = await connect(served.address)
            await send(client, request)
            reset_on_close(client)
            client.close()
        client = await connect(served.address)
        await send(client, GET)
        assert (await read_head(client)).startswith(b"HTTP/1.1 200 OK")
        client.close()


async def test_a_client_that_takes_nothing_is_given_up(mock_clock: MockClock) -> None:
    ended = trio.Event()

    async def handler(exchange: Exchange) -> None:
        sink = await exchange.start(200, Headers(), 100_000_000)
        try:
            await sink.write(bytes(100_000_000))
        except SinkClosed:
            ended.set()
            raise

    async with serving(handler, Limits(write_timeout=300)) as served:
        client = await connect(served.address)
        await send(client, GET)
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(300)
        await ended.wait()
        client.close()


async def test_connections_over_the_cap_get_503_and_fin() -> None:
    async with serving(hello, Limits(connections=2)) as served:
        clients = [await connect(served.address) for _ in range(2)]
        over = await connect(served.address)
        await send(over, GET)
        answer = await read_to_end(over)
        assert answer.startswith(b"HTTP/1.1 503 ")
        over.close()
        assert served.server.statistics().refused == 1
        clients[0].close()
        await wait_all_tasks_blocked()
        again = await connect(served.address)
        await send(again, GET)
        assert (await read_head(again)).startswith(b"HTTP/1.1 200 ")
        again.close()
        clients[1].close()


async def test_one_client_has_a_cap_of_its_own() -> None:
    async with serving(hello, Limits(connections_per_client=1)) as served:
        first = await connect(served.address)
        other = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        await other.bind(("127.0.0.2", 0))
        await other.connect((served.address.host, served.address.port))
        await send(other, GET)
        assert (await read_head(other)).startswith(b"HTTP/1.1 200 ")
        second = await connect(served.address)
        assert (await read_to_end(second)).startswith(b"HTTP/1.1 503 ")
        assert served.server.statistics().clients == 2
        for sock in (first, other, second):
            sock.close()
        await wait_all_tasks_blocked()
        assert served.server.statistics().clients == 0


@pytest.mark.parametrize("failures", [1, 2])
async def test_accept_goes_on_when_there_are_no_descriptors(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, failures: int
) -> None:
    """Who waits is served after a pause; where there is none after that either, it is turned away."""
    async with serving(hello) as served:
        [listener] = served.server._listeners
        real, left = type(listener.socket).accept, failures

        async def fail_at_first(self: trio.socket.SocketType) -> object:
            nonlocal left
            await trio.lowlevel.wait_readable(self)
            if left:
                left -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await real(self)

        await wait_all_tasks_blocked()
        monkeypatch.setattr(type(listener.socket), "accept", fail_at_first)
        statuses = []
        for _ in range(3):  # the first is taken by the accept that was already waiting
            client = await connect(served.address)
            await send(client, GET)
            statuses.append((await read_head(client))[9:12])
            client.close()
        assert statuses == [b"200", b"200" if failures == 1 else b"503", b"200"]
        statistics = served.server.statistics()
        assert (statistics.accept_errors, statistics.refused) == (failures, failures - 1)


async def test_a_drain_ends_idle_connections_and_lets_answers_finish() -> None:
    go_on, begun = trio.Event(), trio.Event()

    async def handler(exchange: Exchange) -> None:
        begun.set()
        await go_on.wait()
        await hello(exchange)

    async with serving(handler) as served, trio.open_nursery() as nursery:
        idle, busy = await connect(served.address), await connect(served.address)
        await send(busy, GET)
        await begun.wait()
        nursery.start_soon(served.server.drain, 10)
        assert await read_to_end(idle) == b""
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(served.address)
        go_on.set()
        answer = await read_to_end(busy)
        busy.close()
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(b"hello")
    assert served.server.statistics().connections == 0


async def test_a_drain_ends_what_is_not_done_within_the_grace(mock_clock: MockClock) -> None:
    async def hang(exchange: Exchange) -> None:
        sink = await exchange.start(200, Headers(), 10)
        await sink.write(b"12345")
        await trio.sleep_forever()

    async with serving(hang) as served, trio.open_nursery() as nursery:
        client = await connect(served.address)
        await send(client, GET)
        await read_head(client)
        await read_exactly(client, 5)
        nursery.start_soon(served.server.drain, 10)
        await wait_all_tasks_blocked()
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked()
        assert served.server.statistics().in_flight == 1
        mock_clock.jump(0.2)
        assert await read_to_end(client) == b""
    assert served.server.statistics().in_flight == 0


async def test_a_mistake_in_one_connection_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(exchange: Exchange) -> bool:
        raise KeyError("a mistake")

    async with serving(hello) as served:
        with monkeypatch.context() as patched:
            patched.setattr(Exchange, "finish", broken)
            client = await connect(served.address)
            await send(client, GET)
            assert (await read_to_end(client)).endswith(b"hello")
        client = await connect(served.address)
        await send(client, GET)
        assert (await read_head(client)).startswith(b"HTTP/1.1 200 ")
    assert "a connection from 127.0.0.1" in caplog.text


async def test_a_server_that_never_ran_is_drained_at_once() -> None:
    await Server(hello).drain(10)


async def test_a_server_gives_all_descriptors_back() -> None:
    before = open_descriptors()
    async with serving(give_half) as served:
        clients = [await connect(served.address) for _ in range(10)]
        for client in clients[:5]:
            await send(client, GET)
        await wait_all_tasks_blocked()
    for client in clients:
        client.close()
    assert open_descriptors() == before
