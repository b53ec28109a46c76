from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from peili.routing.bootstrap import BootstrapAddress, HttpSource
from peili.routing.fetch import fetch
from peili.routing.resolve import BootstrapFailed, resolve

BODY = b'["10.0.0.1:5001"]'
WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n["10.\r\nc\r\n0.0.1:5001"]\r\n0\r\n\r\n'
UNTIL_THE_END = b"HTTP/1.0 200 OK\r\n\r\n" + BODY


async def serve(nursery: trio.Nursery, answer: bytes, asked: list[bytes] | None = None) -> str:
    """A web server that gives one answer to everything; returns its URL."""

    async def handle(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request and request[:1] != b"\x16":
            more = await stream.receive_some(4096)
            if not more:
                return
            request += more
        if asked is not None:
            asked.append(bytes(request))
        with suppress(trio.BrokenResourceError):  # a client that has seen enough closes early
            await stream.send_all(answer)
            await stream.send_eof()
            await stream.receive_some(1)
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handle, listeners)
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/id?x=1"


@pytest.mark.parametrize(
    "answer", [WITH_LENGTH, CHUNKED, UNTIL_THE_END], ids=["length", "chunked", "until the end"]
)
async def test_an_answer_in_each_framing(answer: bytes) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            asked: list[bytes] = []
            url = await serve(nursery, answer, asked)
            assert await resolve(HttpSource(url), 1, fetch) == [BootstrapAddress("10.0.0.1", 5001)]
            assert asked[0].startswith(b"GET /id?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the answer is 404 Not Found"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "the answer is 302"),
        (b"SSH-2.0-x\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[", "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000), "more than 262144 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not a JSON list"),
    ],
)
async def test_a_useless_answer_is_told(answer: bytes, problem: str) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await serve(nursery, answer)
            with pytest.raises(BootstrapFailed, match=problem) as caught:
                await resolve(HttpSource(url), 1, fetch)
            assert url in str(caught.value)
            nursery.cancel_scope.cancel()


async def test_nobody_there() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    for scheme in ("http", "https"):
        with trio.fail_after(10), pytest.raises(BootstrapFailed, match="127"):
            await resolve(HttpSource(f"{scheme}://127.0.0.1:{port}/"), 1, fetch)


async def test_https_to_a_server_that_speaks_no_tls() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await serve(nursery, WITH_LENGTH)
            with pytest.raises(BootstrapFailed):
                await resolve(HttpSource(url.replace("http:", "https:")), 1, fetch)
            nursery.cancel_scope.cancel()
