"""Routers with a cluster secret, on real sockets: members find each other, and nobody else gets anything."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import kad_key, key_digest
from peili.kademlia.message import Message, MessageType, encode
from peili.libp2p.host import DialError, ExtraExtension, Host, StreamError, VerifiedCertificate
from peili.libp2p.multiaddr import Multiaddr
from peili.members.certificate_mac import EXTENSION_OID
from peili.members.membership import Membership
from peili.members.secret_file import SecretFile
from peili.members.secrets import parse_secrets
from peili.oci.key import Key
from peili.routing.kademlia.members import TOLD_INTERVAL, Door
from tests.fakes.routers import LOOPBACK, Cluster, Running, ask, find, port_of, until

KEY = Key("docker.io/library/app:1")
KAD = "/peili/kad/1.0.0"
OLD, NEW, OTHER = b"the old secret of the cluster", b"the new secret of the cluster", b"of another cluster"


def member(*secrets: bytes) -> Membership:
    return Membership(SecretFile(Path("unused"), parse_secrets(b"\n".join(secrets))))


def peers(running: Running) -> int:
    return len(running.router.statistics().peers)


async def quiet(host: Host, port: int) -> None:
    """A stranger's connection, used as if it were good: nothing comes back."""
    with suppress(DialError, StreamError):
        connection = await host.connect(LOOPBACK, port, None, 5)
        request = Message(MessageType.FIND_NODE, host.peer_id.to_bytes())
        async with await connection.open_stream(KAD) as stream:
            await ask(stream, request)
            raise AssertionError("a stranger was answered")


async def test_members_find_each_other_and_each_others_content(cluster: Cluster) -> None:
    a, b = await cluster.start(5000, members=member(OLD)), await cluster.start(6000, members=member(OLD))
    await b.router.wait_ready()
    await a.router.provide([KEY])
    await until(lambda: b.router.statistics().records == 1 or peers(a) == 1)
    await until(lambda: peers(a) == peers(b) == 1)
    assert [provider.port for provider in await find(b.router, KEY)] == [5000]
    assert a.router.statistics().refused_peers == 0


@pytest.mark.parametrize("secrets", [None, (OTHER,)], ids=["no secret", "another secret"])
@pytest.mark.parametrize("stranger_first", [False, True], ids=["it dials us", "we dial it"])
async def test_a_stranger_is_no_peer_and_its_tags_do_not_reach_us(
    cluster: Cluster, secrets: tuple[bytes, ...] | None, *, stranger_first: bool
) -> None:
    one, other = member(OLD), None if secrets is None else member(*secrets)
    first = await cluster.start(5000, members=other if stranger_first else one)
    second = await cluster.start(6000, members=one if stranger_first else other)
    ours, stranger = (second, first) if stranger_first else (first, second)
    await stranger.router.provide([KEY])
    await until(lambda: ours.router.statistics().refused_peers > 0)
    await wait_all_tasks_blocked(0.05)
    statistics = ours.router.statistics()
    assert (statistics.peers, statistics.records) == ((), 0)
    assert stranger.router.statistics().peers == ()
    assert await find(ours.router, KEY) == []
    assert [event for event, _ in cluster.events if event == "joined"] == []


async def test_a_strangers_requests_and_records_are_not_heard(cluster: Cluster) -> None:
    ours = await cluster.start(members=member(OLD))
    host, port = await cluster.start_host({}, registry_port=99)
    await quiet(host, port_of(ours.router))
    record = Contact(host.peer_id.to_bytes(), (Multiaddr.of(LOOPBACK, port).to_bytes(),), 99)
    message = Message(MessageType.ADD_PROVIDER, kad_key(key_digest(KEY)), provider_peers=(record,))
    with suppress(DialError, StreamError):
        connection = await host.connect(LOOPBACK, port_of(ours.router), None, 5)
        async with await connection.open_stream(KAD) as stream:
            await stream.write_frame(encode(message))
            assert await stream.read_frame(100) is None
    await until(lambda: ours.router.statistics().refused_peers == 2)
    await wait_all_tasks_blocked(0.05)
    assert ours.router.statistics().records == 0
    assert [fields["host"] for event, fields in cluster.events if event == "refused a peer"] == [LOOPBACK]


async def test_a_members_proof_is_of_no_use_in_another_certificate(cluster: Cluster) -> None:
    ours = await cluster.start(members=member(OLD))
    seen: list[VerifiedCertificate] = []

    def watch(certificate: VerifiedCertificate) -> bool:
        seen.append(certificate)
        return True

    spy, _ = await cluster.start_host({}, verify_peer=watch)
    await quiet(spy, port_of(ours.router))
    copied = seen[0].extensions[EXTENSION_OID]
    assert member(OLD).accepts(seen[0].public_key, {EXTENSION_OID: copied})
    thief, _ = await cluster.start_host(
        {}, extra_extensions=lambda public_key: [ExtraExtension(EXTENSION_OID, copied)]
    )
    await quiet(thief, port_of(ours.router))
    await until(lambda: ours.router.statistics().refused_peers == 2)
    assert peers(ours) == 0
    # The same host with a proof of its own is let in, so it was the proof that failed.
    proofs = member(OLD)
    friend, _ = await cluster.start_host(
        {},
        extra_extensions=lambda public_key: [
            ExtraExtension(oid, value) for oid, value in proofs.extensions(public_key).items()
        ],
    )
    connection = await friend.connect(LOOPBACK, port_of(ours.router), None, 5)
    async with await connection.open_stream(KAD) as stream:
        await ask(stream, Message(MessageType.FIND_NODE, friend.peer_id.to_bytes()))


async def test_a_secret_is_replaced_without_a_restart(cluster: Cluster) -> None:
    """Both nodes learn to accept the new one, then use it, then forget the old one; never are they apart."""
    one, two = member(OLD), member(OLD)
    a, b = await cluster.start(5000, members=one), await cluster.start(6000, members=two)
    await a.router.provide([KEY])
    for secrets in ([OLD, NEW], [NEW, OLD], [NEW]):
        for membership in (one, two):
            membership.replace(parse_secrets(b"\n".join(secrets)))
            await until(lambda: peers(a) == peers(b) == 1)
    assert [provider.port for provider in await find(b.router, KEY)] == [5000]
    late = await cluster.start(7000, members=member(OLD))
    await until(lambda: a.router.statistics().refused_peers > 0)
    assert peers(late) == 0


async def test_a_node_that_keeps_a_withdrawn_secret_is_out(cluster: Cluster) -> None:
    one = member(OLD, NEW)
    a, b = await cluster.start(5000, members=one), await cluster.start(6000, members=member(OLD))
    await b.router.provide([KEY])
    await until(lambda: peers(a) == peers(b) == 1)
    one.replace(parse_secrets(NEW))
    await until(lambda: not any(peer.connected for peer in a.router.statistics().peers))
    await until(lambda: a.router.statistics().refused_peers > 0)
    assert await find(a.router, KEY) == []


async def test_strangers_cannot_fill_the_log(autojump_clock: trio.testing.MockClock) -> None:
    told: list[object] = []
    door = Door(member(OLD), lambda event, **fields: told.append(fields["refused"]))
    for _ in range(100):
        door.refuse("somebody", LOOPBACK)
    await trio.sleep(TOLD_INTERVAL)
    door.refuse("somebody", LOOPBACK)
    assert told == [1, 101]
    assert door.refused == 101
