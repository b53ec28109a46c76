"""Routers among peers that lie, are silent, send garbage, or are of another kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import trio

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import kad_key, key_digest
from peili.kademlia.message import Message, MessageType, decode, encode
from peili.kademlia.own_message import Goodbye, Provide, decode_own, encode_own
from peili.libp2p.host import Stream, StreamError
from peili.libp2p.identity import Identity
from peili.libp2p.multiaddr import Multiaddr
from peili.oci.key import Key
from peili.routing.kademlia.announce import GATHER_TIME
from peili.routing.kademlia.links import PeerFailed
from tests.fakes.routers import LOOPBACK, Cluster, Running, ask, find, port_of, until

KEY = Key("sha256:" + "cd" * 32)
KAD, OWN = "/peili/kad/1.0.0", "/peili/peili/1.0.0"


class Stranger:
    """A peer that speaks Kademlia alone, as Go's does, and answers what the test wants."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.providers: tuple[Contact, ...] = ()
        self.closer: tuple[Contact, ...] = ()
        self.silent: Callable[[Message], bool] = lambda message: False
        self.requests_of_stream = 1_000_000

    async def serve(self, stream: Stream) -> None:
        for _ in range(self.requests_of_stream):
            frame = await stream.read_frame(65536)
            if frame is None:
                return
            request = decode(frame)
            self.heard.append(request)
            if self.silent(request):
                await trio.sleep_forever()
            if request.type is MessageType.GET_PROVIDERS:
                await stream.write_frame(encode(Message(request.type, request.key, self.closer, self.providers)))
            elif request.type is not MessageType.ADD_PROVIDER:
                await stream.write_frame(encode(Message(request.type, closer_peers=self.closer)))

    def told(self) -> list[bytes]:
        return [message.key for message in self.heard if message.type is MessageType.ADD_PROVIDER]


def address(port: int, host: str = LOOPBACK) -> bytes:
    return Multiaddr.of(host, port).to_bytes()


def someone() -> bytes:
    return Identity.generate().peer_id.to_bytes()


def knows_one(running: Running) -> bool:
    """A peer has answered a question, and will be asked others."""
    return len(running.router._knowledge.table.peers()) == 1


def add_provider(peer_id: bytes, *addresses: bytes) -> bytes:
    contact = Contact(peer_id, addresses, 80, "zone")
    return encode(Message(MessageType.ADD_PROVIDER, kad_key(key_digest(KEY)), provider_peers=(contact,)))


async def test_a_named_address_that_is_no_peer_is_never_yielded(cluster: Cluster) -> None:
    """A router is not made to point the mirror at other hosts, whatever an answer says."""
    stranger, a = Stranger(), await cluster.start(5000)
    host, _ = await cluster.start_host({KAD: stranger.serve})
    await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await until(lambda: knows_one(a))
    other, other_port = await cluster.start_host({}, registry_port=99)
    victims = await trio.open_tcp_listeners(0, host=LOOPBACK)
    victim = victims[0].socket.getsockname()[1]
    cluster.nursery.start_soon(trio.serve_listeners, trio.aclose_forcefully, victims)
    stranger.providers = (
        Contact(someone(), (address(victim),), 80),  # no peer there at all
        Contact(someone(), (address(other_port),), 80),  # another one than named
        Contact(someone(), (b"garbage", address(1, "0.0.0.0"), address(1, "224.0.0.1")), 80),
        Contact(b"\x00\x01", (address(victim),), 80),  # an id that is none
        Contact(someone(), (), 80),
        Contact(host.peer_id.to_bytes(), (address(victim),), 80),  # itself, with a port that it did not identify
    )
    assert await find(a.router, KEY) == []
    stranger.providers = (Contact(other.peer_id.to_bytes(), (address(other_port),), 80, "zone"),)
    (provider,) = await find(a.router, KEY)
    assert (provider.host, provider.port, provider.zone) == (LOOPBACK, 99, "")


async def test_a_wrong_address_for_a_good_peer_does_not_hide_it(cluster: Cluster) -> None:
    stranger, a = Stranger(), await cluster.start(5000)
    host, _ = await cluster.start_host({KAD: stranger.serve})
    await host.connect(LOOPBACK, port_of(a.router), None, 5)
    good, good_port = await cluster.start_host({}, registry_port=99)
    good_id = good.peer_id.to_bytes()
    free = await trio.open_tcp_listeners(0, host=LOOPBACK)
    nobody = free[0].socket.getsockname()[1]
    await free[0].aclose()
    await until(lambda: knows_one(a))
    stranger.providers = (Contact(good_id, (address(nobody),)), Contact(good_id, (address(good_port),)))
    assert [provider.port for provider in await find(a.router, KEY)] == [99]


async def test_a_record_is_taken_for_its_sender_alone_and_with_its_connections_address(cluster: Cluster) -> None:
    a, stranger = await cluster.start(5000), Stranger()
    host, port = await cluster.start_host({KAD: stranger.serve}, registry_port=77, zone="east")
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    async with await connection.open_stream(KAD) as stream:
        await stream.write_frame(add_provider(someone(), address(port)))
        question = Message(MessageType.GET_PROVIDERS, kad_key(key_digest(KEY)))
        assert (await ask(stream, question)).provider_peers == ()
        await stream.write_frame(add_provider(host.peer_id.to_bytes(), address(1, "10.9.8.7")))
        (kept,) = (await ask(stream, question)).provider_peers
    assert kept.registry_port == 77
    assert kept.zone == "east"
    assert all(Multiaddr.parse(raw).host == LOOPBACK for raw in kept.addresses)
    (provider,) = await find(a.router, KEY)
    assert (provider.host, provider.port, provider.zone) == (LOOPBACK, 77, "east")


async def test_a_peer_without_a_registry_port_provides_nothing_unless_ours_is_assumed(cluster: Cluster) -> None:
    a, b = await cluster.start(5000), await cluster.start(5001, assume_registry_port=True)
    host, _ = await cluster.start_host({KAD: Stranger().serve})
    for running, expected in ((a, []), (b, [5001])):
        connection = await host.connect(LOOPBACK, port_of(running.router), None, 5)
        async with await connection.open_stream(KAD) as stream:
            await stream.write_frame(add_provider(host.peer_id.to_bytes(), address(1)))
            await ask(stream, Message(MessageType.PING))
        assert [provider.port for provider in await find(running.router, KEY)] == expected


@pytest.mark.parametrize("protocol", [KAD, OWN])
@pytest.mark.parametrize(
    "frame", [b"\xff", b"", b"\x08\x63", b"\x12\xff\xff\xff\xff\x0f", b"\x08\x02\x12\x05abcde"]
)
async def test_garbage_costs_its_stream_and_nothing_else(cluster: Cluster, protocol: str, frame: bytes) -> None:
    a = await cluster.start(5000)
    host, _ = await cluster.start_host({KAD: Stranger().serve})
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    async with await connection.open_stream(protocol) as stream:
        await stream.write_frame(frame)
        with trio.move_on_after(0.05):
            with suppress(StreamError):
                await stream.read_frame(65536)
    async with await connection.open_stream(KAD) as stream:
        assert (await ask(stream, Message(MessageType.PING))).type is MessageType.PING
    assert a.router.statistics().records == 0


async def test_a_frame_that_is_too_large_ends_its_stream(cluster: Cluster) -> None:
    a = await cluster.start(5000)
    host, _ = await cluster.start_host({KAD: Stranger().serve})
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    async with await connection.open_stream(KAD) as stream:
        await stream.write_frame(bytes(100_000))
        with pytest.raises(StreamError):
            await stream.read_frame(65536)
    async with await connection.open_stream(KAD) as stream:
        await ask(stream, Message(MessageType.PING))


async def test_any_key_may_be_asked_for(cluster: Cluster) -> None:
    a, b = await cluster.start(5000), await cluster.start(5001)
    await until(lambda: len(a.router.statistics().peers) == 1)
    host, _ = await cluster.start_host({})
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    async with await connection.open_stream(KAD) as stream:
        for key in (b"", b"x", bytes(34), b"\x12\x20" + bytes(32), bytes(80)):
            for kind in (MessageType.FIND_NODE, MessageType.GET_PROVIDERS):
                (closer,) = (await ask(stream, Message(kind, key))).closer_peers
                assert closer.addresses == (address(port_of(b.router)),)
                assert closer.registry_port == 5001


async def test_peers_of_another_kind_get_plain_records_and_no_other_word(cluster: Cluster) -> None:
    a, stranger = await cluster.start(5000), Stranger()
    host, _ = await cluster.start_host({KAD: stranger.serve})
    await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await a.router.provide([KEY, Key("docker.io/library/alpine:3")])
    await until(lambda: len(set(stranger.told())) == 2)
    assert kad_key(key_digest(KEY)) in stranger.told()
    record = next(message for message in stranger.heard if message.type is MessageType.ADD_PROVIDER)
    (contact,) = record.provider_peers
    assert contact.id == a.router._knowledge.own_id
    assert contact.addresses == (address(port_of(a.router)),)
    count, third = len(stranger.told()), Key("sha256:" + "33" * 32)
    await a.router.stop_providing([KEY])  # not a word of it to this peer,
    await a.router.provide([third])  # which would have come before this one
    await until(lambda: kad_key(key_digest(third)) in stranger.told())
    await a.stop()
    assert kad_key(key_digest(KEY)) not in stranger.told()[count:]


async def test_a_stream_that_the_peer_closed_is_replaced_by_a_new_one(cluster: Cluster) -> None:
    """Others close a stream that was idle for a minute."""
    a, stranger = await cluster.start(5000), Stranger()
    stranger.requests_of_stream = 1
    host, _ = await cluster.start_host({KAD: stranger.serve})
    await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await until(lambda: knows_one(a))
    good, good_port = await cluster.start_host({}, registry_port=99)
    stranger.providers = (Contact(good.peer_id.to_bytes(), (address(good_port),)),)
    for _ in range(3):
        assert [provider.port for provider in await find(a.router, KEY)] == [99]


async def test_hearsay_makes_nobody_suspect(cluster: Cluster) -> None:
    a, stranger = await cluster.start(5000), Stranger()
    nobody = await trio.open_tcp_listeners(0, host=LOOPBACK)
    port = nobody[0].socket.getsockname()[1]
    await nobody[0].aclose()
    named = someone()
    stranger.closer = stranger.providers = (Contact(named, (address(port),)),)
    host, _ = await cluster.start_host({KAD: stranger.serve})
    await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await until(lambda: knows_one(a))
    assert await find(a.router, KEY) == []
    assert not a.router._knowledge.table.is_suspect(named, trio.current_time())


async def test_many_keys_go_in_one_message_to_peers_of_our_kind(cluster: Cluster) -> None:
    a, stranger, told = await cluster.start(5000), Stranger(), list[object]()

    async def own(stream: Stream) -> None:
        while (frame := await stream.read_frame(65536)) is not None:
            told.append(decode_own(frame))
            await stream.write_frame(encode_own(decode_own(b"\x08\x04")))

    host, _ = await cluster.start_host({KAD: stranger.serve, OWN: own})
    await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await until(lambda: knows_one(a))
    await trio.sleep(2 * GATHER_TIME)  # what it is told as a new peer
    await a.router.provide([Key(f"sha256:{n:064x}") for n in range(900)])
    await until(lambda: sum(len(message.keys) for message in told if isinstance(message, Provide)) >= 900)
    assert len(told) <= 3
    assert stranger.told() == []
    await a.stop()
    assert isinstance(told[-1], Goodbye)


async def test_a_frozen_peer_delays_a_lookup_by_little(cluster: Cluster) -> None:
    a, b, c = [await cluster.start(5000 + n) for n in range(3)]
    await c.router.provide([KEY])
    for n in range(4):
        stranger = Stranger()
        stranger.silent = lambda message: message.type is MessageType.GET_PROVIDERS
        host, _ = await cluster.start_host({KAD: stranger.serve})
        await host.connect(LOOPBACK, port_of(a.router), None, 5)
        await until(lambda n=n: len(a.router.statistics().peers) == 3 + n)  # type: ignore[misc]
    await until(lambda: b.router.statistics().records == 1)
    for _ in range(3):
        with trio.fail_after(1.0):
            assert [provider.port for provider in await find(a.router, KEY)] == [5002]


async def test_who_is_silent_in_a_lookup_is_suspect_although_the_lookup_ended(cluster: Cluster) -> None:
    """Known to us or only named: who is connected and does not answer is passed over by the next lookups."""
    a, known, named = await cluster.start(5000), Stranger(), Stranger()
    known.silent = named.silent = lambda message: message.type is MessageType.GET_PROVIDERS
    naming, table = Stranger(), a.router._knowledge.table
    silent = [await cluster.start_host({KAD: stranger.serve}) for stranger in (known, named)]
    naming.closer = (Contact(silent[1][0].peer_id.to_bytes(), (address(silent[1][1]),)),)
    for host in (silent[0][0], (await cluster.start_host({KAD: naming.serve}))[0]):
        await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await until(lambda: len(a.router.statistics().peers) >= 2)
    assert await find(a.router, KEY) == []
    ids = [host.peer_id.to_bytes() for host, _ in silent]
    with trio.fail_after(3):
        await until(lambda: all(table.is_suspect(peer_id, trio.current_time()) for peer_id in ids))


async def test_a_peer_that_asks_is_asked_back_where_the_table_wants_it(cluster: Cluster) -> None:
    a, stranger = await cluster.start(5000), Stranger()
    silent = True
    stranger.silent = lambda message: silent
    host, _ = await cluster.start_host({KAD: stranger.serve})
    peer_id, table = host.peer_id.to_bytes(), a.router._knowledge.table
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    await until(lambda: table.is_suspect(peer_id, trio.current_time()))
    assert table.get(peer_id) is None, "it has not answered anything"
    silent = False
    async with await connection.open_stream(KAD) as stream:
        await ask(stream, Message(MessageType.PING))
        await until(lambda: table.get(peer_id) is not None)
        assert not table.is_suspect(peer_id, trio.current_time())
        asked = len(stranger.heard)
        for _ in range(20):
            await ask(stream, Message(MessageType.PING))
    assert sum(message.type is MessageType.FIND_NODE for message in stranger.heard[asked:]) <= 2


async def test_a_peer_that_asks_and_never_answers_is_not_asked_back_for_every_question(cluster: Cluster) -> None:
    a, stranger = await cluster.start(5000), Stranger()
    stranger.silent = lambda message: True
    host, _ = await cluster.start_host({KAD: stranger.serve})
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    async with await connection.open_stream(KAD) as stream:
        for _ in range(100):
            await ask(stream, Message(MessageType.PING))
    assert len(stranger.heard) <= 3
    assert a.router._knowledge.table.get(host.peer_id.to_bytes()) is None


async def test_withdrawals_concern_the_sender_alone(cluster: Cluster) -> None:
    a, b = [await cluster.start(5000 + n) for n in range(2)]
    await b.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 1)
    host, _ = await cluster.start_host({})
    connection = await host.connect(LOOPBACK, port_of(a.router), None, 5)
    for message in (b"\x08\x02\x12\x20" + key_digest(KEY), encode_own(Goodbye())):
        async with await connection.open_stream(OWN) as stream:
            await stream.write_frame(message)
            assert await stream.read_frame(100) is not None
    assert [provider.port for provider in await find(a.router, KEY)] == [5001]


async def test_a_dial_that_its_caller_gave_up_says_nothing_about_the_address(cluster: Cluster) -> None:
    a, identity = await cluster.start(5000), Identity.generate()
    silent = await trio.open_tcp_listeners(0, host=LOOPBACK)
    port = silent[0].socket.getsockname()[1]
    contact = Contact(identity.peer_id.to_bytes(), (address(port),))
    with trio.move_on_after(0.02) as left_early:
        await a.router._links.reach(contact)
    assert left_early.cancelled_caught
    await silent[0].aclose()
    await cluster.start_host({}, port=port, identity=identity)
    link = await a.router._links.reach(contact)
    assert link.id == contact.id


async def test_an_address_that_failed_is_left_alone_for_a_while(cluster: Cluster) -> None:
    a = await cluster.start(5000)
    nobody = await trio.open_tcp_listeners(0, host=LOOPBACK)
    port = nobody[0].socket.getsockname()[1]
    await nobody[0].aclose()
    contact = Contact(someone(), (address(port),))
    with pytest.raises(PeerFailed, match=str(port)):
        await a.router._links.reach(contact)
    with pytest.raises(PeerFailed, match="no address to dial"):
        await a.router._links.reach(contact)
    with pytest.raises(PeerFailed, match=str(port)):
        await a.router._links.reach(contact, insist=True)
