from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.http.server import Exchange, Headers, Limits, SocketAddress, listen, listening_address
from peili.http.server import Request as HttpRequest
from tests.unit.http.loopback import (
    GET,
    connect,
    hello,
    read_exactly,
    read_head,
    read_to_end,
    send,
    serving,
)

HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        for _ in range(3):
            await send(client, GET)
            assert await read_exactly(client, len(HELLO)) == HELLO
        statistics = served.server.statistics()
        assert (statistics.accepted, statistics.requests, statistics.connections) == (1, 3, 1)
        client.close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.respond(200, Headers(), exchange.request.target.encode())

    async with serving(echo) as served:
        client = await connect(served.address)
        targets = [f"/{number:04}" for number in range(300)]
        await send(client, b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target.encode() for target in targets))
        for target in targets:
            assert b"Content-Length: 5" in await read_head(client)
            assert await read_exactly(client, 5) == target.encode()
        client.close()


async def test_the_request_is_handed_on_as_it_was_sent() -> None:
    seen: list[HttpRequest] = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.respond(204, Headers())

    async with serving(note) as served:
        client = await connect(served.address)
        await send(client, b"DELETE /v2/a%2Fb?ns=x HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nx-two: \xe9\r\n\r\n")
        assert (await read_head(client)).startswith(b"HTTP/1.1 204 No Content\r\n")
        host, port = client.getsockname()
        client.close()
    [request] = seen
    assert (request.method, request.target) == ("DELETE", "/v2/a%2Fb?ns=x")
    assert request.headers.get_all("X-TWO") == ("1", "\xe9")
    assert request.client == SocketAddress(host, port)


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, HEAD + HEAD)
        head = HELLO.removesuffix(b"hello")
        assert await read_exactly(client, 2 * len(head)) == 2 * head
        client.close()


async def test_head_keeps_an_explicit_length_and_a_sink_takes_nothing() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.target == "/respond":
            await exchange.respond(200, Headers.of({"Content-Length": "12345678901"}))
        else:
            sink = await exchange.start(200, Headers(), 12345678901)
            assert sink.remaining == 0

    async with serving(handler) as served:
        client = await connect(served.address)
        for target in (b"/respond", b"/start"):
            await send(client, b"HEAD %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
            assert b"Content-Length: 12345678901\r\n" in await read_head(client)
        await send(client, HEAD)
        client.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_leave_it_out(status: int) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(status, Headers(), b"never sent")

    async with serving(handler) as served:
        client = await connect(served.address)
        for _ in range(2):
            await send(client, GET)
            assert (await read_head(client)).startswith(b"HTTP/1.1 %d " % status)
        client.close()


async def test_a_sink_sends_what_is_written_and_the_log_can_see_how_far_it_came() -> None:
    exchanges: list[Exchange] = []

    async def handler(exchange: Exchange) -> None:
        exchanges.append(exchange)
        assert not exchange.started
        sink = await exchange.start(206, Headers(), 6)
        await sink.write(b"abc")
        assert (exchange.status, exchange.started, exchange.body_sent) == (206, True, 3)
        await sink.write(memoryview(bytearray(b"def")))

    async with serving(handler) as served:
        client = await connect(served.address)
        for _ in range(2):
            await send(client, GET)
            await read_head(client)
            assert await read_exactly(client, 6) == b"abcdef"
        client.close()
    assert exchanges[1].body_sent == 6


@pytest.mark.parametrize("closing", [b"HTTP/1.0", b"HTTP/1.1\r\nConnection: close"])
async def test_the_connection_ends_where_the_client_wants_it(closing: bytes) -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, b"GET / %s\r\nHost: x\r\n\r\n" % closing)
        answer = (await read_to_end(client)).lower()
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"hello")


async def test_a_client_that_half_closes_gets_its_answer() -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, GET)
        client.shutdown(trio.socket.SHUT_WR)
        assert await read_to_end(client) == HELLO


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    ],
)
async def test_a_bad_request_gets_400_and_a_clean_end(garbage: bytes) -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, garbage + 50_000 * b"more")
        answer = await read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close\r\n" in answer
        assert served.server.statistics().bad_requests == 1


async def test_a_head_that_is_too_long_gets_431() -> None:
    async with serving(hello, Limits(head_bytes=1000)) as served:
        client = await connect(served.address)
        await send(client, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + 50_000 * b"x")
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 431 ")


async def test_a_small_body_is_thrown_away() -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + bytes(60000))
        assert await read_exactly(client, len(HELLO)) == HELLO
        await send(client, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert await read_exactly(client, len(HELLO)) == HELLO
        client.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + bytes(500_000),
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + 200 * (b"1000\r\n%s\r\n" % bytes(4096)),
    ],
)
async def test_a_large_body_is_not_read_and_the_answer_is_the_last_one(request_bytes: bytes) -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, request_bytes)
        answer = await read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(HELLO.partition(b"\r\n\r\n")[2])


async def test_a_client_that_waits_for_100_gets_the_answer_and_the_end() -> None:
    async with serving(hello) as served:
        client = await connect(served.address)
        await send(client, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        answer = await read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer


async def test_a_handler_that_breaks_before_the_answer_gives_500_and_the_server_lives() -> None:
    told: list[Exception] = []

    async def handler(exchange: Exchange) -> None:
        if exchange.request.target == "/none":
            return
        if exchange.request.target == "/bad":
            await exchange.respond(200, Headers.of({"Content-Length": "nonsense"}).with_("Transfer-Encoding", "x"))
        raise KeyError("broken")

    async with serving(handler, on_error=lambda _, error: told.append(error)) as served:
        for target in (b"/raise", b"/none", b"/bad"):
            client = await connect(served.address)
            await send(client, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
            assert (await read_to_end(client)).startswith(b"HTTP/1.1 500 ")
    assert [type(error) for error in told] == [KeyError, RuntimeError, ValueError]


async def test_a_broken_error_hook_does_not_end_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(exchange: Exchange) -> None:
        raise KeyError("broken")

    def hook(exchange: Exchange, error: Exception) -> None:
        raise RuntimeError("the hook too")

    async with serving(handler, on_error=hook) as served:
        for _ in range(2):
            client = await connect(served.address)
            await send(client, GET)
            assert (await read_to_end(client)).startswith(b"HTTP/1.1 500 ")
    assert "the error hook failed" in caplog.text


async def test_an_idle_connection_ends_after_the_idle_timeout(mock_clock: MockClock) -> None:
    async with serving(hello, Limits(idle_timeout=75)) as served:
        client = await connect(served.address)
        await send(client, GET)
        await read_exactly(client, len(HELLO))
        await wait_all_tasks_blocked()
        mock_clock.jump(74.9)
        await wait_all_tasks_blocked()
        assert served.server.statistics().connections == 1
        mock_clock.jump(0.2)
        assert await read_to_end(client) == b""


async def test_a_head_that_drips_in_ends_after_the_head_timeout(mock_clock: MockClock) -> None:
    async with serving(hello, Limits(head_timeout=10)) as served:
        client = await connect(served.address)
        for byte in GET[:11]:
            await send(client, bytes([byte]))
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
        assert await read_to_end(client) == b""
        assert served.server.statistics().requests == 0


async def test_a_body_that_drips_in_ends_after_the_same_time(mock_clock: MockClock) -> None:
    async with serving(hello, Limits(head_timeout=10)) as served:
        client = await connect(served.address)
        await send(client, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        for _ in range(11):
            await send(client, b"x")
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
        assert await read_to_end(client) == b""


async def test_a_server_on_all_addresses_takes_ipv4_and_names_it_so() -> None:
    listeners = await listen(SocketAddress("::", 0))
    address = listening_address(listeners[0])
    assert address.host == "::"
    client = await connect(SocketAddress("127.0.0.1", address.port))
    accepted, name = await listeners[0].socket.accept()
    assert SocketAddress.of(name).host == "127.0.0.1"
    client.close()
    accepted.close()
    listeners[0].socket.close()


async def test_an_address_in_use_is_named_in_the_error() -> None:
    listeners = await listen(SocketAddress("127.0.0.1", 0))
    address = listening_address(listeners[0])
    with pytest.raises(OSError, match=f"127.0.0.1:{address.port}"):
        await listen(address)
    with pytest.raises(OSError, match=r"192\.0\.2\.1:1"):
        await listen(SocketAddress("192.0.2.1", 1))
    listeners[0].socket.close()
