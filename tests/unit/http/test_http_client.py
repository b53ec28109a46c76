from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.http.client import Client, ClientLimits, Response
from peili.http.errors import (
    BadResponse,
    BodyTooLarge,
    ConnectFailed,
    NoMeans,
    ResponseTimeout,
    SourceEnded,
    SourceStalled,
)
from peili.http.server import Exchange, Headers, SocketAddress
from tests.unit.http.loopback import LOOPBACK, hello, open_descriptors, read_head, reset_on_close, send, serving

Play = Callable[[trio.socket.SocketType], Awaitable[None]]


@asynccontextmanager
async def a_peer(*plays: Play) -> AsyncIterator[SocketAddress]:
    """A peer that plays one of these with each connection, in order."""
    listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await listener.bind((LOOPBACK.host, 0))
    listener.listen(5)
    taken: list[trio.socket.SocketType] = []

    async def run() -> None:
        for play in plays:
            sock, _ = await listener.accept()
            taken.append(sock)
            await play(sock)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield SocketAddress.of(listener.getsockname())
            nursery.cancel_scope.cancel()
    finally:
        for sock in (listener, *taken):
            sock.close()


def answers(data: bytes, *, close: bool = False) -> Play:
    """Read a request head, send these bytes."""

    async def play(sock: trio.socket.SocketType) -> None:
        await read_head(sock)
        await send(sock, data)
        if close:
            sock.close()

    return play


async def get(client: Client, address: SocketAddress, method: str = "GET", target: str = "/") -> Response:
    return await client.open(address, method, target, Headers(), connect_timeout=5, head_timeout=5)


async def body(client: Client, address: SocketAddress) -> bytes:
    async with await get(client, address) as response:
        return await response.read(1000, timeout=5)


async def test_an_answer_is_read_and_its_connection_used_again() -> None:
    client = Client()
    async with serving(hello) as served:
        for _ in range(3):
            async with await get(client, served.address) as response:
                assert (response.status, response.content_length, response.address) == (200, 5, served.address)
                assert response.headers.get("content-type") == "text/plain"
                assert await response.read(5, timeout=5) == b"hello"
        statistics = client.statistics()
        assert (statistics.connected, statistics.reused, statistics.idle) == (1, 2, 1)
        await client.aclose()
        assert client.statistics().idle == 0


async def test_the_request_names_its_host_and_carries_the_headers() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.respond(200, Headers(), repr(list(exchange.request.headers)).encode())

    client = Client()
    async with serving(echo) as served:
        for headers, host in ((Headers.of({"A": "b"}), str(served.address)), (Headers.of({"Host": "h"}), "h")):
            async with await client.open(
                served.address, "GET", "/", headers, connect_timeout=5, head_timeout=5
            ) as response:
                sent = (await response.read(1000, timeout=5)).decode()
            assert f"('Host', '{host}')" in sent
            assert ("('A', 'b')" in sent) == ("a" in headers)
        await client.aclose()


@pytest.mark.parametrize("ending", ["FIN", "RST"])
async def test_a_kept_connection_that_died_is_replaced_once(ending: str) -> None:
    served_first = trio.Event()

    async def one_answer_and_death(sock: trio.socket.SocketType) -> None:
        await answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(sock)
        await served_first.wait()
        await read_head(sock)  # so it dies only after the next request was sent
        if ending == "RST":
            reset_on_close(sock)
        sock.close()

    client = Client()
    async with a_peer(one_answer_and_death, answers(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")) as address:
        assert await body(client, address) == b"ok"
        served_first.set()
        assert await body(client, address) == b"new"
        statistics = client.statistics()
        assert (statistics.connected, statistics.reused, statistics.retried) == (2, 1, 1)
        await client.aclose()


async def test_a_kept_connection_that_ended_or_spoke_is_not_used() -> None:
    client = Client()
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def speak_up(sock: trio.socket.SocketType) -> None:
        await answers(ok)(sock)
        await send(sock, b"by the way")

    async def reset(sock: trio.socket.SocketType) -> None:
        await answers(ok)(sock)
        await wait_all_tasks_blocked()  # the client has read it
        reset_on_close(sock)
        sock.close()

    async with a_peer(answers(ok, close=True), speak_up, reset, answers(ok)) as address:
        for _ in range(4):
            assert await body(client, address) == b"ok"
            await wait_all_tasks_blocked(0.001)
        statistics = client.statistics()
        assert (statistics.connected, statistics.reused, statistics.retried) == (4, 0, 0)
        await client.aclose()


async def test_a_fresh_connection_that_ends_without_an_answer_is_not_tried_again() -> None:
    async def hang_up(sock: trio.socket.SocketType) -> None:
        await read_head(sock)
        sock.close()

    async with a_peer(hang_up, hang_up) as address:
        with pytest.raises(BadResponse, match="without an answer"):
            await get(Client(), address)


async def test_informational_answers_are_skipped_but_not_without_end() -> None:
    informational = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with a_peer(answers(3 * informational + ok), answers(100 * informational + ok)) as address:
        client = Client()
        async with await get(client, address) as response:
            assert await response.read(2, timeout=5) == b"ok"
        client.forget(address)
        with pytest.raises(BadResponse):
            await get(client, address)


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_have_none(status: int) -> None:
    client = Client()
    answer = b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status
    async with a_peer(answers(answer)) as address, await get(client, address) as response:
        assert (response.status, response.source.remaining) == (status, 0)
    await client.aclose()


async def test_the_answer_to_head_has_a_length_and_no_body() -> None:
    client = Client()
    async with serving(hello) as served:
        for _ in range(2):
            async with await get(client, served.address, "HEAD") as response:
                assert (response.content_length, response.source.remaining) == (5, 0)
                assert await response.read(0, timeout=5) == b""
        assert client.statistics().connected == 1
        await client.aclose()


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02F",
        b"HTTP/1.1 200 OK\r\n\r\nno length",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + 40_000 * b"x",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
    ],
)
async def test_what_is_no_usable_answer_is_bad(garbage: bytes) -> None:
    before = open_descriptors()
    async with a_peer(answers(garbage, close=True)) as address:
        with pytest.raises(BadResponse):
            await get(Client(), address)
    assert open_descriptors() == before


async def test_nobody_there() -> None:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await sock.bind((LOOPBACK.host, 0))
    address = SocketAddress.of(sock.getsockname())
    sock.close()
    for nobody in (address, SocketAddress("256.1.1.1.", 1), SocketAddress("a" * 70 + ".", 1), SocketAddress("", 1)):
        with pytest.raises(ConnectFailed):
            await get(Client(), nobody)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_no_descriptor_for_a_connection_is_our_own_fault(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none_left(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(trio.socket, "socket", none_left)
    with pytest.raises(NoMeans, match=os.strerror(number)):
        await get(Client(), SocketAddress("127.0.0.1", 1))


async def test_nobody_answers_in_time(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: trio.socket.SocketType, address: object) -> None:
        await trio.sleep_forever()

    before = open_descriptors()
    sock = trio.socket.socket()
    monkeypatch.setattr(type(sock), "connect", never)
    sock.close()
    with pytest.raises(ConnectFailed, match="5 s"):
        await get(Client(), SocketAddress("127.0.0.1", 1))
    assert open_descriptors() == before


async def test_no_head_in_time(mock_clock: MockClock) -> None:
    asked = trio.Event()

    async def silence(sock: trio.socket.SocketType) -> None:
        await read_head(sock)
        await send(sock, b"HTTP/1.1 2")
        asked.set()

    before = open_descriptors()
    async with a_peer(silence) as address, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(ResponseTimeout):
                await get(Client(), address)

        nursery.start_soon(ask)
        await asked.wait()
        await wait_all_tasks_blocked()
        mock_clock.jump(5)
    assert open_descriptors() == before


async def test_a_body_beyond_the_limit_is_not_read() -> None:
    client = Client()
    async with serving(hello) as served, await get(client, served.address) as response:
        with pytest.raises(BodyTooLarge):
            await response.read(4, timeout=5)
    await client.aclose()


async def test_a_body_that_ends_early() -> None:
    async with a_peer(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", close=True)) as address:
        client = Client()
        async with await get(client, address) as response:
            with pytest.raises(SourceEnded, match="5 bytes before"):
                await response.read(10, timeout=5)
        assert client.statistics().idle == 0


async def test_a_body_that_does_not_come_in_time(mock_clock: MockClock) -> None:
    async def read(response: Response) -> None:
        with pytest.raises(SourceStalled) as caught:
            await response.read(10, timeout=5)
        assert caught.value.moved == 5

    peer = a_peer(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"))
    async with peer as address, await get(Client(), address) as response, trio.open_nursery() as nursery:
        nursery.start_soon(read, response)
        await wait_all_tasks_blocked()
        mock_clock.jump(5)


async def test_an_unread_body_closes_the_connection_unless_it_is_small_and_there() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(404, Headers(), bytes(int(exchange.request.target[1:])))

    client = Client()
    async with serving(handler) as served:
        for size, connected in ((5, 1), (10_000, 1), (5_000_000, 1), (5, 2)):
            async with await get(client, served.address, target=f"/{size}") as response:
                await wait_all_tasks_blocked()
            assert client.statistics().connected == connected
            await response.aclose()  # again does nothing
        await client.aclose()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nConnection: Close", b"HTTP/1.0 200 OK"])
async def test_a_connection_that_the_peer_ends_is_not_kept(head: bytes) -> None:
    async with a_peer(answers(head + b"\r\nContent-Length: 2\r\n\r\nok")) as address:
        client = Client()
        assert await body(client, address) == b"ok"
        assert client.statistics().idle == 0


async def test_bytes_beyond_the_body_spoil_the_connection() -> None:
    async with a_peer(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay")) as address:
        client = Client()
        assert await body(client, address) == b"ok"
        assert client.statistics().idle == 0


async def test_connections_are_kept_for_the_idle_timeout_only(mock_clock: MockClock) -> None:
    async with serving(hello) as served:
        client = Client(limits=ClientLimits(idle_timeout=50))
        for wait, connected in ((0, 1), (49, 1), (51, 2)):
            mock_clock.jump(wait)
            assert await body(client, served.address) == b"hello"
            assert client.statistics().connected == connected
        client.forget(served.address)
        assert client.statistics().idle == 0


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    before = open_descriptors()

    async def hang(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with serving(hang) as served, trio.open_nursery() as nursery:
        client = Client()
        nursery.start_soon(get, client, served.address)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert open_descriptors() == before


@pytest.mark.parametrize(("method", "target"), [("GET", "/a b"), ("GET", "/\n"), ("G T", "/"), ("GET", "/ü")])
async def test_a_request_that_cannot_be_sent_is_the_callers_mistake(method: str, target: str) -> None:
    with pytest.raises(ValueError, match="request"):
        await get(Client(), SocketAddress("127.0.0.1", 1), method, target)


@pytest.mark.slow
async def test_a_peer_whose_body_is_left_in_the_middle_hears_of_it_at_once() -> None:
    """Also where our receive window was full for long, and the peer's next look at it is seconds away."""
    ended = trio.Event()

    async def endless(sock: trio.socket.SocketType) -> None:
        await read_head(sock)
        try:
            await send(sock, b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + bytes(100_000_000))
        except OSError:
            ended.set()

    async with a_peer(endless) as address:
        client = Client()
        response = await client.open(address, "GET", "/", Headers(), connect_timeout=1, head_timeout=1)
        await trio.sleep(3.5)  # the peer has looked after 0.2, 0.6, 1.4, and 3.0 s, and would after 6.2
        response.source.abort()
        await _drain(response)
        await response.aclose()
        with trio.fail_after(1):
            await ended.wait()
        await client.aclose()


async def _drain(response: Response) -> None:
    """Take what had arrived."""
    with suppress(SourceEnded):
        while response.source.remaining:
            await response.source.receive()
