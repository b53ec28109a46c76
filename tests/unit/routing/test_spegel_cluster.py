"""A router in a cluster of the other kind: its records, its addresses, its peers without a registry port."""

from __future__ import annotations

import ipaddress
from typing import Any

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.message import Message, MessageType, decode, encode
from peili.libp2p.host import Host, Stream
from peili.libp2p.identity import Identity
from peili.libp2p.multiaddr import Multiaddr
from peili.oci.key import Key
from peili.routing.kademlia.links import DIAL_TIMEOUT
from peili.routing.kademlia.search import CONNECT_PATIENCE
from tests.fakes.routers import LOOPBACK, Cluster, Running, find, port_of, until

KEY = Key("sha256:" + "cd" * 32)
KAD = "/spegel/kad/1.0.0"
OURS = "127.0.0.1"
SPEGEL: dict[str, Any] = {
    "prefix": "/spegel",
    "assume_registry_port": True,
    "believe_records": True,
    "peer_networks": (ipaddress.ip_network("127.0.0.0/30"), ipaddress.ip_network("10.0.0.0/8")),
}


def contact(*addresses: tuple[str, int], peer_id: bytes | None = None) -> Contact:
    binary = tuple(Multiaddr.of(host, port).to_bytes() for host, port in addresses)
    return Contact(peer_id or Identity.generate().peer_id.to_bytes(), binary, 4444, "zone")


async def naming(cluster: Cluster, running: Running, *providers: Contact) -> Host:
    """A peer that says that these provide everything."""

    async def serve(stream: Stream) -> None:
        while (frame := await stream.read_frame(65536)) is not None:
            request = decode(frame)
            named = providers if request.type is MessageType.GET_PROVIDERS else ()
            await stream.write_frame(encode(Message(request.type, request.key, provider_peers=named)))

    host, _ = await cluster.start_host({KAD: serve})
    await host.connect(
        running.router.statistics().listen_addresses[0].split("/")[2], port_of(running.router), None, 5
    )
    await until(lambda: len(running.router.statistics().peers) == 1)
    return host


async def test_a_provider_that_cannot_be_reached_is_where_its_record_says_with_our_port(cluster: Cluster) -> None:
    a = await cluster.start(5000, zone="zone", **SPEGEL)
    dead = contact(("10.1.2.3", 1), ("127.0.0.2", 1))
    await naming(cluster, a, dead)
    with trio.fail_after(3):
        (provider,) = await find(a.router, KEY)
    assert (provider.host, provider.port, provider.zone) == ("10.1.2.3", 5000, "")


async def test_its_address_has_to_be_a_peers_and_not_ours(cluster: Cluster) -> None:
    a = await cluster.start(5000, **SPEGEL)
    await naming(
        cluster,
        a,
        contact(("192.168.1.1", 1)),  # outside the peer networks
        contact(("127.0.0.9", 1)),
        contact((OURS, 1)),  # ourselves
        contact(),
        contact(("169.254.169.254", 80), ("0.0.0.0", 1)),
        Contact(b"\x00\x01", contact(("127.0.0.2", 1)).addresses),  # an id that is none
    )
    with trio.fail_after(3):
        assert await find(a.router, KEY) == []


async def test_a_connection_comes_first_and_its_word_alone_counts(cluster: Cluster) -> None:
    a = await cluster.start(5000, host="127.0.0.2", **SPEGEL)
    good, port = await cluster.start_host({KAD: trio.sleep_forever}, registry_port=77)
    await naming(cluster, a, contact(("127.0.0.3", 1), (LOOPBACK, port), peer_id=good.peer_id.to_bytes()))
    (provider,) = await find(a.router, KEY)
    assert (provider.host, provider.port) == (LOOPBACK, 77)


async def test_who_does_not_finish_its_handshake_is_offered_soon(cluster: Cluster) -> None:
    """A resolve timeout of 250 ms must not pass before a record's word is taken."""
    a = await cluster.start(5000, **SPEGEL)
    silent = await trio.open_tcp_listeners(0, host="127.0.0.2")
    await naming(cluster, a, contact(("127.0.0.2", silent[0].socket.getsockname()[1])))
    started = trio.current_time()
    async with a.router.find_providers(KEY) as providers:
        async for provider in providers:
            assert provider.host == "127.0.0.2"
            break
    assert CONNECT_PATIENCE <= trio.current_time() - started < DIAL_TIMEOUT / 2
    await silent[0].aclose()


async def test_in_our_own_clusters_a_record_is_never_enough(cluster: Cluster) -> None:
    a = await cluster.start(5000, **{**SPEGEL, "believe_records": False})
    await naming(cluster, a, contact(("127.0.0.2", 1)))
    assert await find(a.router, KEY) == []


async def test_a_connected_peer_outside_the_peer_networks_is_no_provider(cluster: Cluster) -> None:
    network = (ipaddress.ip_network("10.0.0.0/8"),)
    a, b = await cluster.start(5000), await cluster.start(5001, peer_networks=network)
    await a.router.provide([KEY])
    await until(lambda: b.router.statistics().records == 1)
    assert await find(b.router, KEY) == []


async def test_two_of_our_kind_speak_as_ever_in_a_cluster_of_the_other(cluster: Cluster) -> None:
    a, b = [await cluster.start(5000 + n, **SPEGEL) for n in range(2)]
    await b.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 1)
    assert [provider.port for provider in await find(a.router, KEY)] == [5001]
    await b.router.stop_providing([KEY])
    await until(lambda: a.router.statistics().records == 0)
