"""Our router against an independent implementation: js-libp2p's kad-dht finds our providers, and we find its."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import trio

from peili.kademlia.keyspace import kad_key, key_digest
from peili.oci.key import Key
from peili.routing.bootstrap import BootstrapAddress, StaticSource
from peili.routing.protocol import Provider
from tests.fakes.routers import LOOPBACK, Cluster, Running, find, open_cluster, port_of
from tests.integration.js_libp2p.peer import JsPeer, js_peer, require

pytestmark = pytest.mark.slow
OURS, THEIRS = Key("sha256:" + "ab" * 32), Key("docker.io/library/alpine:3")
PATIENCE = 15.0  # seconds
PEILI: dict[str, Any] = {"prefix": "/peili"}
SPEGEL: dict[str, Any] = {
    "prefix": "/spegel",
    "assume_registry_port": True,
    "believe_records": True,
    "peer_networks": (ipaddress.ip_network("127.0.0.0/8"),),
}
both_prefixes = pytest.mark.parametrize("settings", [PEILI, SPEGEL], ids=["peili", "spegel"])


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    require()


def hex_key(key: Key) -> str:
    """As peer.mjs takes keys: the multihash, which the CID holds that others look up."""
    return kad_key(key_digest(key)).hex()


def js_source(js: JsPeer) -> tuple[StaticSource, ...]:
    """The address alone, as a DNS name or a list of addresses gives it."""
    return (StaticSource((BootstrapAddress(LOOPBACK, js.port),)),)


async def cluster_of(cluster: Cluster, count: int, settings: dict[str, Any]) -> list[Running]:
    """So many routers that all know each other."""
    nodes = [await cluster.start(5000 + number, **settings) for number in range(count)]
    with trio.fail_after(PATIENCE):
        while any(len(node.router.statistics().peers) < count - 1 for node in nodes):
            await trio.sleep(0.02)
    return nodes


async def join(js: JsPeer, node: Running) -> None:
    """js-libp2p dials a node of ours, and is in its table."""
    await js.ask("dial", address=node.router.statistics().listen_addresses[0])
    with trio.fail_after(PATIENCE):
        while js.peer not in {peer.peer_id for peer in node.router.statistics().peers}:
            await trio.sleep(0.02)


async def until_js_finds(js: JsPeer, key: Key, expected: set[str]) -> None:
    """It takes a moment until identify has told it that a peer takes part."""
    found: set[str] = set()
    with trio.move_on_after(PATIENCE):
        while found != expected:
            found = set((await js.ask("find", key=hex_key(key)))["providers"])
    assert found == expected


async def until_found(node: Running, key: Key, expected: set[tuple[str, str, int]]) -> None:
    found: set[tuple[str, str, int]] = set()
    with trio.move_on_after(PATIENCE):
        while found != expected:
            found = {_place(provider) for provider in await find(node.router, key)}
            await trio.sleep(0.02)
    assert found == expected


def _place(provider: Provider) -> tuple[str, str, int]:
    return provider.peer_id, provider.host, provider.port


@both_prefixes
async def test_js_libp2p_finds_our_providers(settings: dict[str, Any]) -> None:
    async with js_peer(settings["prefix"]) as js, open_cluster() as cluster:
        first, *_, provider = await cluster_of(cluster, 3, settings)
        await provider.router.provide([OURS])
        await join(js, first)
        await until_js_finds(js, OURS, {provider.router.peer_id})
        await first.router.provide([OURS])
        await until_js_finds(js, OURS, {first.router.peer_id, provider.router.peer_id})
        await until_js_finds(js, Key("sha256:" + "00" * 32), set())


async def test_we_find_the_providers_of_js_libp2p_in_a_cluster_of_their_kind() -> None:
    """Its record names no registry port: each of us takes its own, as Spegel's nodes do."""
    async with js_peer("/spegel") as js, open_cluster() as cluster:
        nodes = await cluster_of(cluster, 3, SPEGEL)
        await join(js, nodes[0])
        await js.ask("provide", key=hex_key(THEIRS))
        for number, node in enumerate(nodes):
            await until_found(node, THEIRS, {(js.peer, LOOPBACK, 5000 + number)})


async def test_a_provider_without_a_registry_provides_nothing_in_a_cluster_of_ours() -> None:
    async with js_peer("/peili") as js, open_cluster() as cluster:
        nodes = await cluster_of(cluster, 3, PEILI)
        await join(js, nodes[0])
        await js.ask("provide", key=hex_key(THEIRS))
        # What it says after this would be known after that.
        await nodes[1].router.provide([OURS])
        await until_js_finds(js, OURS, {nodes[1].router.peer_id})
        with trio.fail_after(PATIENCE):
            while any(node.router.statistics().records < 1 for node in (nodes[0], nodes[2])):
                await trio.sleep(0.02)
        for node in nodes:
            assert await find(node.router, THEIRS) == []
        assert [node.router.statistics().records for node in (nodes[0], nodes[2])] == [1, 1], "not the one of js"


@both_prefixes
async def test_nodes_that_know_js_libp2p_alone_find_each_other_through_it(settings: dict[str, Any]) -> None:
    async with js_peer(settings["prefix"]) as js, open_cluster() as cluster:
        one = await cluster.start(5000, **settings, bootstrap=js_source(js))
        two = await cluster.start(5001, **settings, bootstrap=js_source(js))
        await two.router.provide([OURS])
        await until_found(one, OURS, {(two.router.peer_id, LOOPBACK, 5001)})
        await until_js_finds(js, OURS, {two.router.peer_id})
        assert port_of(one.router) != port_of(two.router)


async def test_a_cluster_with_another_prefix_is_another_cluster() -> None:
    async with js_peer("/spegel") as js, open_cluster() as cluster:
        one = await cluster.start(5000, **PEILI, bootstrap=js_source(js))
        with trio.fail_after(PATIENCE):
            while "does not speak /peili/kad/1.0.0" not in one.router.statistics().bootstrap_problem:
                await trio.sleep(0.02)
        assert one.router.statistics().peers == ()
