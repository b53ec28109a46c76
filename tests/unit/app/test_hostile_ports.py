"""Hostile bytes at the three ports of a running node, while an honest client keeps pulling through it."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image
from peili.demo.process import OPERATIONS_PORT, REGISTRY_PORT, ROUTER_PORT
from peili.libp2p.multistream import HEADER, encode_line
from tests.fakes.honest import honest_client
from tests.fakes.nodes import next_host
from tests.fakes.processes import Cluster, Node, cluster, wait_offered

pytestmark = pytest.mark.slow

NAME = "registry.example/hostile:1"
IMAGE = build_image("hostile", layer_sizes=(3_000_000, 5_000))
PORTS = {"registry": REGISTRY_PORT, "router": ROUTER_PORT, "operations": OPERATIONS_PORT}
OPEN = encode_line(HEADER) + encode_line("/tls/1.0.0")
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
REQUEST = b"GET /v2/library/app/manifests/1?ns=docker.io HTTP/1.1\r\nHost: a\r\n"
AT_A_TIME = 50

GARBAGE = [
    b"",
    b"\x00" * 40,
    b"\xff" * 70_000,
    b"\r\n" * 5000,
    b"GET",
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"POST /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 200_000,
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET /v2/%00%ff/blobs/sha256:zz?ns=\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/../../etc/shadow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/a/blobs/sha256:../../../etc/shadow HTTP/1.1\r\nHost: a\r\n\r\n",
    REQUEST + b"Range: bytes=" + b"0-1," * 2000 + b"\r\n\r\n",
    REQUEST * 300,
    (REQUEST + b"\r\n") * 200,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    HELLO + os.urandom(600),
    OPEN,
    OPEN + HELLO + os.urandom(600),
    OPEN + b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
    encode_line(HEADER) + encode_line("/noise") * 100,
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    *(random.Random(seed).randbytes(3000) for seed in range(10)),
]


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


async def pair(made: Cluster, *options: str) -> Node:
    """A puller, and a node that holds the image, with these options."""
    [holder] = await made.start(1, *options, images=[(NAME, IMAGE)])
    [puller] = await made.start(1)
    await wait_offered(puller, NAME, IMAGE)
    assert holder is not puller
    return puller


async def say(source: str, node: Node, port: int, data: bytes, limit: trio.CapacityLimiter) -> None:
    """Send this, and read what comes until the node ends the connection, or for a moment."""
    async with limit:
        try:
            stream = await trio.open_tcp_stream(node.host, port, local_address=source)
        except OSError:
            return  # not even that
        async with stream:
            with trio.move_on_after(0.5):
                try:
                    await stream.send_all(data)
                    while await stream.receive_some(65536):
                        pass
                except trio.BrokenResourceError:
                    pass
            await trio.aclose_forcefully(stream)


async def test_garbage_truncation_and_oversize(made: Cluster) -> None:
    puller = await pair(made)
    source, limit = next_host(), trio.CapacityLimiter(AT_A_TIME)
    before = puller.use()
    async with honest_client(puller, NAME, IMAGE), trio.open_nursery() as nursery:
        for data in GARBAGE:
            for port in PORTS.values():
                for cut in (len(data), len(data) // 2):
                    nursery.start_soon(say, source, puller, port, data[:cut], limit)
    await puller.wait_as_before(before)


async def drip(source: str, node: Node, port: int, data: bytes) -> None:
    """A byte now and then; done when the node has had enough."""
    try:
        stream = await trio.open_tcp_stream(node.host, port, local_address=source)
        async with stream:
            for byte in data:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.5)
    except (OSError, trio.BrokenResourceError):
        return


async def read_slowly(source: str, node: Node, target: bytes) -> None:
    """Ask for a large blob, and never read it."""
    try:
        async with await trio.open_tcp_stream(node.host, REGISTRY_PORT, local_address=source) as stream:
            await stream.send_all(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            await trio.sleep_forever()
    except (OSError, trio.BrokenResourceError):
        return


async def test_slowloris(made: Cluster) -> None:
    """A hundred that drip at each port, and a hundred that ask for a large layer and do not read it.

    By default the holder gives one peer half of its uploads, which so many hold for ever; others go upstream then.
    """
    puller = await pair(made, "--max-uploads=0")
    before = puller.use()
    layer = f"/v2/hostile/blobs/{IMAGE.layers[0].digest}?ns=registry.example".encode()
    async with honest_client(puller, NAME, IMAGE) as honest, trio.open_nursery() as nursery:
        source = next_host()
        for port, data in zip(PORTS.values(), (REQUEST, OPEN + HELLO, REQUEST), strict=True):
            for _ in range(100):
                nursery.start_soon(drip, source, puller, port, data)
        for _ in range(100):
            nursery.start_soon(read_slowly, source, puller, layer)
        await honest.wait_pulls(10)
        assert await puller.readiness() == 200
        nursery.cancel_scope.cancel()
    await puller.wait_as_before(before)


async def hold(streams: list[trio.SocketStream], source: str, node: Node, port: int) -> None:
    try:
        streams.append(await trio.open_tcp_stream(node.host, port, local_address=source))
    except OSError:
        return


async def test_thousands_of_connections(made: Cluster) -> None:
    """2,000 at each port, of two addresses: those over an address's cap are ended, and nobody else notices."""
    puller = await pair(made)
    before = puller.use()
    streams: list[trio.SocketStream] = []
    async with honest_client(puller, NAME, IMAGE) as honest:
        for port in PORTS.values():
            for source in (next_host(), next_host()):
                for _ in range(10):
                    async with trio.open_nursery() as nursery:
                        for _ in range(100):
                            nursery.start_soon(hold, streams, source, puller, port)
        await honest.wait_pulls(5)
        held = puller.use().descriptors - before.descriptors
        assert 1000 < held < 4400
        assert await puller.readiness() == 200
        for stream in streams:
            await trio.aclose_forcefully(stream)
    await puller.wait_as_before(before)


async def flood(source: str, node: Node, port: int, data: Callable[[], bytes], seconds: float) -> None:
    """As fast as the node takes it, on one connection after another."""
    with trio.move_on_after(seconds):
        while True:
            try:
                async with await trio.open_tcp_stream(node.host, port, local_address=source) as stream:
                    for _ in range(50):
                        await stream.send_all(data())
                        with trio.move_on_after(0.05):
                            await stream.receive_some(65536)
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(0.01)


def _unknown() -> bytes:
    """A request for what nobody has; each key is looked up in the cluster."""
    digest = random.randbytes(32).hex()
    return f"GET /v2/x/blobs/sha256:{digest}?ns=docker.io HTTP/1.1\r\nHost: a\r\n\r\n".encode()


async def test_a_flood_of_requests_for_keys_that_nobody_has(made: Cluster) -> None:
    puller = await pair(made)
    before = puller.use()
    async with honest_client(puller, NAME, IMAGE), trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(flood, next_host(), puller, REGISTRY_PORT, _unknown, 3.0)
        run = partial(flood, next_host(), puller, OPERATIONS_PORT)
        nursery.start_soon(run, lambda: b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 3.0)
        nursery.start_soon(run, lambda: b"GET /explain?image=x HTTP/1.1\r\nHost: a\r\n\r\n", 3.0)
    assert await puller.metric("peili_requests_total") > 100
    await puller.wait_as_before(before)
