"""Any bytes to the server are a request or get an error; to the client they are a Response or a BadResponse."""

from __future__ import annotations

import socket

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peili.http.client import Client
from peili.http.connection import Connection, Tally
from peili.http.errors import BadResponse, SourceEnded
from peili.http.limits import Limits
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange
from peili.http.stages import StagePool
from tests.properties.effort import examples

PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"HEAD / HTTP/1.0\r\n",
        b"PUT /x HTTP/1.1\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 \r\n",
        b"HTTP/1.1 100 Continue\r\n",
        b"HTTP/1.0 404 Not Found\r\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"\0",
        b" ",
    ]
)
ANY_BYTES = st.binary(max_size=300) | st.lists(PIECES | st.binary(max_size=5), max_size=12).map(b"".join)
CLIENT = SocketAddress("192.0.2.1", 1)


async def talk(data: bytes) -> tuple[bytes, list[str]]:
    """What a connection of the server answers to these bytes, and what the handler was asked."""
    ours, theirs = trio.socket.socketpair()
    asked: list[str] = []
    errors: list[Exception] = []

    async def handler(exchange: Exchange) -> None:
        asked.append(exchange.request.target)
        await exchange.respond(200, Headers(), b"ok")

    connection = Connection(
        ours, CLIENT, handler, lambda _, error: errors.append(error), Limits(), StagePool(0), Tally()
    )
    answer = b""
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.serve)
            if data:
                await theirs.send(data)
            theirs.shutdown(socket.SHUT_WR)
            while more := await theirs.recv(65536):
                answer += more
    assert not errors
    return answer, asked


@settings(deadline=None, max_examples=examples(200))
@given(ANY_BYTES)
@example(b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\nabc")
@example(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n")
def test_any_bytes_are_requests_or_get_an_error(data: bytes) -> None:
    answer, asked = trio.run(talk, data)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == len(asked)
    if not asked and data.strip(b"\r\n"):
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))


async def hear(data: bytes, method: str) -> None:
    """Open a request to a peer that answers these bytes, and read the body."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = Client()

        async def answer() -> None:
            sock, _ = await listener.accept()
            with sock:
                await sock.recv(65536)
                if data:
                    await sock.send(data)
                sock.shutdown(socket.SHUT_WR)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            address = SocketAddress.of(listener.getsockname())
            try:
                response = await client.open(address, method, "/", Headers(), connect_timeout=5, head_timeout=5)
            except BadResponse:
                return
            async with response:
                assert 200 <= response.status <= 999
                if response.source.remaining < 1000:
                    try:
                        body = await response.read(1000, timeout=5)
                    except SourceEnded:
                        pass
                    else:
                        assert len(body) == (0 if method == "HEAD" else response.content_length or 0)
        await client.aclose()


@settings(deadline=None, max_examples=examples(200))
@given(ANY_BYTES | ANY_BYTES.map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest), st.sampled_from(["GET", "HEAD"]))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET")
def test_any_bytes_are_a_response_or_a_bad_one(data: bytes, method: str) -> None:
    trio.run(hear, data, method)
