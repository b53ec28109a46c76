"""Several Kademlia routers on loopback, with real sockets. They tell their providers apart by registry port."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from peili.kademlia.keyspace import kad_key, key_digest, position
from peili.kademlia.message import Message, MessageType
from peili.libp2p.connection import Connection
from peili.libp2p.host import DialError, Host
from peili.libp2p.peer_id import PeerId
from peili.oci.key import Key
from peili.routing.bootstrap import BootstrapAddress, FileSource, StaticSource
from peili.routing.kademlia import KademliaRouter, KademliaSettings, announce, outbox, upkeep
from peili.routing.kademlia.links import NotAsked
from tests.fakes.routers import LOOPBACK, Cluster, Running, ask, find, port_of, until

KEY = Key("sha256:" + "ab" * 32)
OTHER = Key("docker.io/library/alpine:3")


async def ports(router: KademliaRouter, key: Key = KEY) -> set[int]:
    return {provider.port for provider in await find(router, key)}


async def until_found(router: KademliaRouter, expected: set[int], key: Key = KEY) -> None:
    while await ports(router, key) != expected:
        await trio.lowlevel.checkpoint()


async def test_a_node_that_joins_is_found_within_a_second(cluster: Cluster) -> None:
    a, b, c = [await cluster.start(5000 + n) for n in range(3)]
    await c.router.provide([KEY])
    with trio.fail_after(1):
        for running in (a, b, c):
            await running.router.wait_ready()
        for running in (a, b):
            await until_found(running.router, {5002})
    (provider,) = await find(a.router, KEY)
    assert provider.host == LOOPBACK
    assert provider.peer_id == c.router.peer_id
    assert await find(c.router, KEY) == []


async def test_withdrawn_keys_are_gone_from_every_peer_at_once(cluster: Cluster) -> None:
    a, b, c = [await cluster.start(5000 + n) for n in range(3)]
    await c.router.provide([KEY, OTHER])
    await until(lambda: all(running.router.statistics().records == 2 for running in (a, b)))
    await c.router.stop_providing([KEY])
    with trio.fail_after(0.5):
        await until(lambda: all(running.router.statistics().records == 1 for running in (a, b)))
        assert await ports(a.router) == set()
        assert await ports(a.router, OTHER) == {5002}


async def test_keys_taken_back_and_provided_again_are_found(cluster: Cluster) -> None:
    a, b = [await cluster.start(5000 + n) for n in range(2)]
    for _ in range(20):
        await b.router.provide([KEY])
        await trio.lowlevel.checkpoint()
        await b.router.stop_providing([KEY])
        await b.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 1)
    assert await ports(a.router) == {5001}


async def test_a_node_that_stops_says_goodbye(cluster: Cluster) -> None:
    a, b, c = [await cluster.start(5000 + n) for n in range(3)]
    await c.router.provide([KEY])
    for running in (a, b):
        await until_found(running.router, {5002})
    await c.stop()
    for running in (a, b):
        assert await ports(running.router) == set()


async def kill(running: Running) -> None:
    """End a router as a crash does, without a goodbye."""

    async def nothing() -> None:
        pass

    running.router._say_goodbye = nothing  # type: ignore[method-assign]
    await running.stop()


async def test_a_killed_node_leaves_the_candidates_with_its_connection(cluster: Cluster) -> None:
    a, b, c = [await cluster.start(5000 + n) for n in range(3)]
    await c.router.provide([KEY])
    await until(lambda: all(running.router.statistics().records == 1 for running in (a, b)))
    await kill(c)
    host, _ = await cluster.start_host({})
    question = Message(MessageType.GET_PROVIDERS, kad_key(key_digest(KEY)))
    with trio.fail_after(1):
        for running in (a, b):  # their answers to others first: nobody has looked for it and failed
            connection = await host.connect(LOOPBACK, port_of(running.router), None, 5)
            async with await connection.open_stream("/peili/kad/1.0.0") as stream:
                while (await ask(stream, question)).provider_peers:
                    await trio.lowlevel.checkpoint()
        for running in (a, b):
            assert await ports(running.router) == set()


async def test_a_killed_node_that_comes_back_is_believed_only_what_it_says_now(
    cluster: Cluster, tmp_path: Path
) -> None:
    a = await cluster.start(5000)
    b = await cluster.start(5001, identity_directory=tmp_path)
    await b.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 1)
    await kill(b)
    again = await cluster.start(5001, identity_directory=tmp_path)
    await again.router.provide([OTHER])
    await until_found(a.router, {5001}, OTHER)
    assert await ports(a.router) == set()
    await until(lambda: a.router.statistics().records == 1)  # the old one is void


async def test_a_node_that_restarts_with_its_identity_is_found_with_what_it_has_now(
    cluster: Cluster, tmp_path: Path
) -> None:
    a, b = [await cluster.start(5000 + n) for n in range(2)]
    c = await cluster.start(5002, identity_directory=tmp_path)
    await c.router.provide([KEY])
    await until_found(a.router, {5002})
    await c.stop()
    again = await cluster.start(5002, identity_directory=tmp_path)
    assert again.router.peer_id == c.router.peer_id
    await again.router.provide([OTHER])
    for running in (a, b):
        await until_found(running.router, {5002}, OTHER)
        assert await ports(running.router) == set()


async def test_an_identity_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "identity.pem").write_text("no key")
    with pytest.raises(OSError, match=r"identity\.pem"):
        KademliaRouter(KademliaSettings(LOOPBACK, 0, identity_directory=tmp_path))


async def test_ipv6(cluster: Cluster) -> None:
    a, b = [await cluster.start(5000 + n, host="::1") for n in range(2)]
    await b.router.provide([KEY])
    await until_found(a.router, {5001})
    (provider,) = await find(a.router, KEY)
    assert provider.host == "::1"


async def test_both_families_are_listened_on_for_the_unspecified_address(cluster: Cluster) -> None:
    a = await cluster.start(5000, host="::", advertise=(LOOPBACK, "::1"))
    assert [text.split("/")[1] for text in a.router.statistics().listen_addresses] == ["ip4", "ip6"]


async def test_an_address_in_use_is_named(cluster: Cluster) -> None:
    a = await cluster.start()
    port = port_of(a.router)
    with pytest.raises(OSError, match=f"the router cannot listen on {LOOPBACK}:{port}") as caught:
        await KademliaRouter(KademliaSettings(LOOPBACK, port)).run()
    assert caught.value.errno == errno.EADDRINUSE


async def test_another_prefix_is_another_cluster(cluster: Cluster) -> None:
    a, b = await cluster.start(5000), await cluster.start(5001, prefix="/other")
    await b.router.provide([KEY])
    await until(lambda: b.router.statistics().bootstrap_problem != "")
    assert "does not speak /other/kad/1.0.0" in b.router.statistics().bootstrap_problem
    assert a.router.statistics().peers == ()
    assert await find(a.router, KEY) == []


async def test_the_same_zone_comes_first(cluster: Cluster) -> None:
    a = await cluster.start(5000, zone="z1")
    for n in range(1, 5):
        running = await cluster.start(5000 + n, zone=f"z{n % 2}")
        await running.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 4)  # else some are found by asking others, and come later
    for _ in range(5):
        assert [provider.zone for provider in await find(a.router, KEY)] == ["z1", "z1", "z0", "z0"]


async def test_equal_providers_come_in_random_order(cluster: Cluster) -> None:
    a = await cluster.start(5000)
    expected = {5001, 5002, 5003, 5004}
    for port in expected:
        running = await cluster.start(port)
        await running.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 4)  # else some are found by asking others, and come later
    orders = [tuple(provider.port for provider in await find(a.router, KEY)) for _ in range(40)]
    assert {order[0] for order in orders} == expected
    assert len(set(orders)) > 5


async def test_a_node_with_nothing_to_serve_is_no_provider(cluster: Cluster) -> None:
    a, b = await cluster.start(5000), await cluster.start(0)
    await b.router.provide([KEY])
    await b.router.wait_ready()
    assert await find(a.router, KEY) == []
    assert a.router.statistics().records == 0


async def test_ten_nodes_with_500_keys_each(cluster: Cluster) -> None:
    nodes = [await cluster.start(5000 + n) for n in range(10)]
    keys = [[Key(f"sha256:{n:032x}{number:032x}") for number in range(500)] for n in range(10)]
    for running, own in zip(nodes, keys, strict=True):
        await running.router.provide(own)
    await until(lambda: all(len(running.router.statistics().peers) == 9 for running in nodes))
    await until(lambda: all(running.router.statistics().records == 4500 for running in nodes))
    for n, running in enumerate(nodes):
        other = (n + 3) % 10
        assert await ports(running.router, keys[other][n]) == {5000 + other}


async def test_a_node_without_peers_is_ready_when_bootstrap_names_only_itself(cluster: Cluster) -> None:
    a = await cluster.start()
    await a.router.wait_ready()
    assert a.router.statistics().alone


async def test_bootstrap_is_asked_again_until_there_is_a_peer(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "peers"
    a = await cluster.start()
    b = await cluster.start(5001, bootstrap=(FileSource(str(path)),), bootstrap_backoff=0.01)
    await until(lambda: "No such file" in b.router.statistics().bootstrap_problem)
    assert not b.router.statistics().alone
    path.write_text(f"{LOOPBACK}:{port_of(b.router)}\n{LOOPBACK}:{port_of(a.router)}\n")
    await b.router.wait_ready()
    assert b.router.statistics().bootstrap_problem == ""
    problems = [fields["problem"] for event, fields in cluster.events if event == "bootstrap found no peer"]
    assert len(problems) == 1, "said once, however often it was tried"


async def test_bootstrap_says_who_did_not_answer(cluster: Cluster) -> None:
    free = await trio.open_tcp_listeners(0, host=LOOPBACK)
    port = free[0].socket.getsockname()[1]
    await free[0].aclose()
    a = await cluster.start(5000, bootstrap=(StaticSource((BootstrapAddress(LOOPBACK, port),)),))
    await until(lambda: a.router.statistics().bootstrap_problem != "")
    assert f"{LOOPBACK}:{port}" in a.router.statistics().bootstrap_problem
    assert not a.router.statistics().alone


async def test_a_wrong_peer_id_in_bootstrap_is_told(cluster: Cluster) -> None:
    a = await cluster.start()
    wrong = BootstrapAddress(LOOPBACK, port_of(a.router), "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
    b = await cluster.start(5001, bootstrap=(StaticSource((wrong,)),))
    await until(lambda: b.router.statistics().bootstrap_problem != "")
    assert b.router.statistics().peers == ()


async def test_all_peers_lost_and_found_again(cluster: Cluster, tmp_path: Path) -> None:
    a = await cluster.start(5000, identity_directory=tmp_path)
    port = port_of(a.router)
    b = await cluster.start(5001, bootstrap_backoff=0.01, bootstrap_backoff_limit=0.05)
    await b.router.provide([KEY])
    await until_found(a.router, {5001})
    await a.stop()
    await until(lambda: ("lost all peers", {}) in cluster.events)
    await until(lambda: b.router.statistics().bootstrap_problem != "")
    again = await cluster.start(5000, identity_directory=tmp_path, listen_port=port, bootstrap=())
    await until_found(again.router, {5001})


async def test_nothing_is_left_when_routers_end(cluster: Cluster) -> None:
    descriptors = Path("/proc/self/fd")
    before = trio.lowlevel.current_statistics().tasks_living, len(list(descriptors.iterdir()))
    for _ in range(3):
        nodes = [await cluster.start(5000 + n) for n in range(3)]
        await nodes[2].router.provide([KEY])
        await until_found(nodes[1].router, {5002})
        for running in nodes:
            await running.stop()
        cluster.forget()
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before[0])
    assert len(list(descriptors.iterdir())) <= before[1]


async def test_an_exception_in_the_block_of_a_lookup_comes_out_as_it_is(cluster: Cluster) -> None:
    a, b = [await cluster.start(5000 + n) for n in range(2)]
    await b.router.wait_ready()
    with pytest.raises(ZeroDivisionError):
        async with a.router.find_providers(KEY):
            raise ZeroDivisionError


async def test_before_it_runs_a_router_takes_keys_and_finds_nobody() -> None:
    router = KademliaRouter(KademliaSettings(LOOPBACK, 0, registry_port=5000))
    await router.provide([KEY])
    assert await find(router, KEY) == []
    assert router.statistics().provided_keys == 1


def test_keys_are_what_others_look_up() -> None:
    assert kad_key(key_digest(KEY))[:2] == b"\x12\x20"
    assert position(kad_key(key_digest(KEY))) != 0


async def test_a_peer_that_was_named_but_not_reached_is_found_a_little_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "UNREACHED_PAUSES", (0.1, 0.2, 0.4, 0.8))
    a = await cluster.start(5000)
    connect, failed = Host.connect, 0

    async def overloaded(self: Host, host: str, port: int, expected: PeerId | None, timeout: float) -> Connection:
        nonlocal failed
        if port != port_of(a.router) and failed < 3:
            failed += 1
            raise DialError("not in time")
        return await connect(self, host, port, expected, timeout)

    monkeypatch.setattr(Host, "connect", overloaded)
    b, c = await cluster.start(5001), await cluster.start(5002)
    await until(lambda: failed == 3)
    with trio.fail_after(5):
        await until(lambda: all(len(running.router.statistics().peers) == 2 for running in (a, b, c)))


async def test_a_new_peer_is_told_of_many_keys_at_a_pace_and_of_none_that_went_meanwhile(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "KEYS_A_SECOND", 1500)
    a = await cluster.start(5000)
    keys = [Key(f"sha256:{number:064x}") for number in range(1200)]
    await a.router.provide(keys)
    await trio.sleep(4 * announce.GATHER_TIME)  # nobody is there to be told
    started = trio.current_time()
    b = await cluster.start(5001)
    await until(lambda: len(a.router.statistics().peers) == 1)
    await a.router.stop_providing(keys[:300])
    await a.router.provide([KEY])
    await until(lambda: b.router.statistics().records >= 500)
    assert trio.current_time() - started > 0.5
    await a.router.stop_providing(keys[300:600])
    await until(lambda: b.router.statistics().records == 601)
    await trio.sleep(1.0)
    assert b.router.statistics().records == 601
    assert not a.router._announcer._telling


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process gets no further one, also where one is given back meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_peer_that_there_is_no_descriptor_for_is_not_suspect(cluster: Cluster) -> None:
    one = (await cluster.start()).router
    cluster.forget()
    other = (await cluster.start()).router
    contact = other._own_contact()
    one._knowledge.table.heard(contact, trio.current_time())
    with no_descriptor_left():
        assert not await one._lookups.check(contact)
        lookup = await one._lookups.run(contact.id, MessageType.FIND_NODE)
        assert lookup.closest(1) == []
        with pytest.raises(NotAsked, match="no descriptor"):
            await one._links.reach(contact)
    assert not one._knowledge.table.is_suspect(contact.id, trio.current_time())
    assert (await one._links.reach(contact)).id == contact.id, "its address is not passed over, either"


async def test_what_a_peer_could_not_be_told_for_want_of_a_descriptor_it_is_told_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "NOT_ASKED_PAUSE", 0.01)
    one = (await cluster.start()).router
    cluster.forget()
    other = (await cluster.start()).router
    with no_descriptor_left():
        one._outbox.tell(other._own_contact(), [key_digest(KEY)], provided=True)
        await trio.sleep(0.05)
        assert other.statistics().records == 0
    await until(lambda: other.statistics().records == 1)
    assert not one._knowledge.table.is_suspect(other._own_contact().id, trio.current_time())
