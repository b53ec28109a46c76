"""`peili run --router-protocol spegel` as processes: what they say to each other, and to peers of that kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from peili.demo.images import build_image
from peili.demo.process import REGISTRY_PORT
from peili.kademlia.keyspace import kad_key, key_digest
from peili.oci.key import Key
from tests.fakes.nodes import fetch
from tests.fakes.processes import (
    PATIENCE,
    Cluster,
    Node,
    blob_target,
    cluster,
    holds,
    keys_of,
    manifest_target,
    wait_offered,
    wait_until,
)
from tests.fakes.wire import Asked, FaultyHolder
from tests.integration.js_libp2p.peer import JsPeer, js_peer, require

pytestmark = pytest.mark.slow

NAME = "registry.example/spegel:1"
IMAGE = build_image("spegel", layer_sizes=(3_000_000,))
LAYER = IMAGE.layers[0]
SPEGEL = ("--router-protocol", "spegel", "--peer-network", "127.0.0.0/8")
OURS, THEIRS = "x-peili-mirrored", "x-spegel-mirrored"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


async def test_two_processes_find_each_others_content_and_forward_nothing(made: Cluster) -> None:
    one, two = await made.start(2, *SPEGEL)
    one.layout.add(NAME, IMAGE)
    await wait_offered(two, NAME, IMAGE)
    # Who asks with this header is a peer: it gets what the node itself has, and never a further hop.
    assert (await fetch(two.host, manifest_target(NAME), X_Spegel_Mirrored="true")).status == 404
    assert (await fetch(one.host, manifest_target(NAME), X_Spegel_Mirrored="true")).status == 200
    await made.pull(two, NAME)
    assert holds(two, IMAGE)
    late = Node(made.base, made.first)  # of the other prefix: it is another cluster
    made.nodes.append(late)
    await late.start()
    await wait_until(lambda: _alone(late), "it finds nobody of its own kind")
    assert (await fetch(late.host, manifest_target(NAME))).status == 404


async def _alone(node: Node) -> bool:
    router = (await node.status())["router"]
    return "/peili/kad/1.0.0" in router["bootstrap_problem"] and not router["peers"]


@pytest.mark.parametrize("options", [SPEGEL, ()], ids=["spegel", "peili"])
async def test_requests_to_peers_carry_the_header_of_their_cluster(made: Cluster, options: tuple[str, ...]) -> None:
    [puller] = await made.start(1, *options)
    asked: list[Asked] = []
    prefix = "/spegel" if options else "/peili"
    others: dict[str, Any] = {
        "prefix": prefix,
        "assume_registry_port": bool(options),
        "believe_records": bool(options),
    }
    blobs = {digest.hex: content for digest, content in IMAGE.blobs.items()}
    await made.peer(keys_of(NAME, IMAGE), FaultyHolder(blobs, [], asked), **others)
    found = partial(_has_layer, puller)
    await wait_until(found, "the layer comes from the peer")
    mine, other = (THEIRS, OURS) if options else (OURS, THEIRS)
    assert asked
    for request in asked:
        assert f"\r\n{mine}: true" in request.head
        assert other not in request.head


async def _has_layer(node: Node) -> bool:
    return (await fetch(node.host, blob_target(NAME, LAYER.digest))).body == IMAGE.blobs[LAYER.digest]


async def _js_finds(js: JsPeer, key: Key, peer_id: str) -> bool:
    return peer_id in (await js.ask("find", key=_hex(key)))["providers"]


def _hex(key: Key) -> str:
    return kad_key(key_digest(key)).hex()


async def _join(js: JsPeer, node: Node) -> str:
    """js-libp2p dials the process, and is among its peers; gives the process's peer id."""
    router = (await node.status())["router"]
    await js.ask("dial", address=f"{router['listen_addresses'][0].split('/p2p/')[0]}/p2p/{router['peer_id']}")

    async def joined() -> bool:
        return js.peer in {peer["peer_id"] for peer in (await node.status())["router"]["peers"]}

    await wait_until(joined, "js-libp2p is a peer")
    return str(router["peer_id"])


@pytest.mark.parametrize("options", [SPEGEL, ()], ids=["spegel", "peili"])
async def test_js_libp2p_finds_what_a_process_has_over_both_prefixes(
    made: Cluster, options: tuple[str, ...]
) -> None:
    require()
    async with js_peer("/spegel" if options else "/peili") as js:
        first, holder = await made.start(2, *options)
        await _join(js, first)
        peer_id = (await holder.status())["router"]["peer_id"]
        holder.layout.add(NAME, IMAGE)
        await wait_until(lambda: _js_finds(js, Key(str(LAYER.digest)), peer_id), "js-libp2p finds it")


async def test_a_process_pulls_from_a_provider_that_js_libp2p_named(made: Cluster) -> None:
    """Its record tells no registry port: it is this node's own, at the address of the provider."""
    require()
    asked: list[Asked] = []
    holder = FaultyHolder({LAYER.digest.hex: IMAGE.blobs[LAYER.digest]}, [], asked)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await holder(stream)

    try:
        listeners = await trio.open_tcp_listeners(REGISTRY_PORT, host="127.0.0.1")
    except OSError:
        pytest.skip(f"another program has 127.0.0.1:{REGISTRY_PORT}")
    await made.nursery.start(partial(trio.serve_listeners, serve, listeners))
    async with js_peer("/spegel") as js:
        [puller] = await made.start(1, *SPEGEL)
        await _join(js, puller)
        await js.ask("provide", key=_hex(Key(str(LAYER.digest))))
        with trio.fail_after(PATIENCE):
            await wait_until(lambda: _has_layer(puller), "the layer comes from there")
    assert any(f"\r\n{THEIRS}: true" in request.head for request in asked)
