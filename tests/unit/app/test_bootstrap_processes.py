"""`peili run` finds its first peer by each kind of bootstrap: real processes, a real file, a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from peili.demo.process import ROUTER_PORT
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange, Server, listen, listening_address
from tests.fakes.processes import Node, cluster, wait_until


async def test_every_kind_of_bootstrap_finds_a_peer(tmp_path: Path) -> None:
    listing: list[object] = []

    async def answer(exchange: Exchange) -> None:
        await exchange.respond(200, Headers.of({"Content-Type": "application/json"}), json.dumps(listing).encode())

    file = tmp_path / "peers"
    file.write_text("# nobody yet\n")
    async with cluster(tmp_path) as made:
        listeners = await listen(SocketAddress("127.0.0.1", 0))
        await made.nursery.start(Server(answer).run, listeners)
        url = f"http://{listening_address(listeners[0])}/id"
        # The only name that every machine resolves without a server is localhost: this one has its router there.
        router_port = await unused_port()

        def new(*options: str) -> Node:
            """A node that is told of nobody but itself, beside what the options say."""
            node = Node(tmp_path, None, options)
            made.nodes.append(node)
            return node

        named = new("--router-address", f"127.0.0.1:{router_port}")
        by_file, by_http = new("--bootstrap", f"file:{file}"), new("--bootstrap", f"http:{url}")
        by_dns = new("--bootstrap", f"dns:localhost:{router_port}")
        for node in (named, by_file, by_http):
            await node.start()
        for node in (by_file, by_http):
            await node.wait_ready()  # the sources have answered, and named nobody
        await by_dns.start()
        await wait_until(connected(by_dns), "a peer found by dns:")
        assert await peers(by_file) == await peers(by_http) == 0
        # Both are asked again as long as nobody is known.
        file.write_text(f"127.0.0.1:{router_port}  # the one with a name\n")
        await wait_until(connected(by_file), "a peer found by file:")
        listing.append({"ID": "", "Addrs": [f"/ip4/{by_file.host}/tcp/{ROUTER_PORT}"]})
        await wait_until(connected(by_http), "a peer found by http:")
        assert by_file.errors() == by_http.errors() == by_dns.errors() == []


async def unused_port() -> int:
    listeners = await listen(SocketAddress("127.0.0.1", 0))
    port = listening_address(listeners[0]).port
    await listeners[0].aclose()
    return port


async def peers(node: Node) -> int:
    return int(await node.metric("peili_peers "))


def connected(node: Node) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await peers(node) > 0

    return check
