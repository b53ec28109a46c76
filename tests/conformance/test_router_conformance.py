"""What every Router does, whatever finds the providers underneath."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peili.oci.key import Key
from peili.routing.bootstrap import BootstrapAddress, Source, StaticSource
from peili.routing.kademlia import KademliaRouter, KademliaSettings
from peili.routing.memory import MemoryNetwork, MemoryRouter
from peili.routing.protocol import Provider, Router
from peili.routing.static import StaticRouter
from tests.fakes.routers import port_of

PATIENCE = 20.0  # seconds until a test is given up
KEY = Key("sha256:" + "ab" * 32)
OTHER = Key("docker.io/library/alpine:3")


@dataclass(frozen=True)
class Kind:
    """A kind of router. `start` runs one in each nursery, in one cluster; it returns them with their ports."""

    name: str
    start: Callable[[Sequence[trio.Nursery]], Awaitable[Sequence[tuple[Router, int]]]]
    exact: bool = True  # it knows who has what, rather than hinting every key at everybody

    def __str__(self) -> str:
        return self.name


async def start_memory(nurseries: Sequence[trio.Nursery]) -> Sequence[tuple[Router, int]]:
    network = MemoryNetwork()
    routers = [MemoryRouter(network, peer_id=f"m{n}", registry_port=5000 + n) for n in range(len(nurseries))]
    for router, nursery in zip(routers, nurseries, strict=True):
        await nursery.start(router.run)
    return [(router, 5000 + n) for n, router in enumerate(routers)]


async def start_static(nurseries: Sequence[trio.Nursery]) -> Sequence[tuple[Router, int]]:
    peers = [("127.0.0.1", 5000 + n) for n in range(len(nurseries))]
    routers = [StaticRouter(peers, own=[own]) for own in peers]
    for router, nursery in zip(routers, nurseries, strict=True):
        await nursery.start(router.run)
    return [(router, 5000 + n) for n, router in enumerate(routers)]


async def start_kademlia(nurseries: Sequence[trio.Nursery]) -> Sequence[tuple[Router, int]]:
    """The first is the bootstrap address of the others; two that do not know each other yet would not do."""
    routers: list[tuple[Router, int]] = []
    bootstrap: tuple[Source, ...] = ()
    for number, nursery in enumerate(nurseries):
        settings = KademliaSettings("127.0.0.1", 0, registry_port=5000 + number, bootstrap=bootstrap)
        router = KademliaRouter(settings)
        await nursery.start(router.run)
        await router.wait_ready()
        bootstrap = bootstrap or (StaticSource((BootstrapAddress("127.0.0.1", port_of(router)),)),)
        routers.append((router, 5000 + number))
    for running, _ in routers:
        while len(running.statistics().peers) < len(routers) - 1:
            await wait_all_tasks_blocked(0.001)
    return routers


KINDS = [
    Kind("memory", start_memory),
    Kind("static", start_static, exact=False),
    Kind("kademlia", start_kademlia),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
exact_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.exact], ids=str)


async def find(router: Router, key: Key) -> list[Provider]:
    async with router.find_providers(key) as providers:
        return [provider async for provider in providers]


async def wait_found(router: Router, key: Key, ports: set[int]) -> list[Provider]:
    """Look the key up until exactly these registry ports are found."""
    while True:
        found = await find(router, key)
        if {provider.port for provider in found} == ports:
            return found
        await trio.lowlevel.checkpoint()


async def test_protocols_are_satisfied() -> None:
    routers: list[Router] = [MemoryRouter(), StaticRouter([]), KademliaRouter(KademliaSettings("127.0.0.1", 0))]
    assert {router.statistics().kind for router in routers} == {"memory", "static", "kademlia"}


@every_kind
async def test_what_a_peer_provides_is_found_once_and_never_ourselves(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (b, b_port), (c, c_port) = await kind.start([nursery] * 3)
            for router in (a, b, c):
                await router.wait_ready()
                await router.provide([KEY])
                await router.provide([KEY])
            found = await wait_found(a, KEY, {b_port, c_port})
            assert len(found) == 2
            assert len({provider.peer_id for provider in found}) == 2
            nursery.cancel_scope.cancel()


@exact_kinds
async def test_nobody_is_found_for_an_unknown_key(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (b, _) = await kind.start([nursery] * 2)
            await a.wait_ready()
            await b.provide([KEY])
            assert await find(a, OTHER) == []
            nursery.cancel_scope.cancel()


@exact_kinds
async def test_withdrawn_keys_are_found_no_longer_and_the_others_still(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (b, b_port) = await kind.start([nursery] * 2)
            await a.wait_ready()
            await b.provide([KEY, OTHER])
            await wait_found(a, KEY, {b_port})
            await wait_found(a, OTHER, {b_port})
            await b.stop_providing([KEY])
            await wait_found(a, KEY, set())
            await wait_found(a, OTHER, {b_port})
            nursery.cancel_scope.cancel()


@exact_kinds
async def test_who_is_known_is_known_without_asking_anybody(kind: Kind) -> None:
    """In a small cluster a node keeps the records of all keys."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (b, b_port) = await kind.start([nursery] * 2)
            await a.wait_ready()
            assert a.known_providers(KEY) == []
            await b.provide([KEY])
            while [provider.port for provider in a.known_providers(KEY)] != [b_port]:
                await wait_all_tasks_blocked(0.001)
            assert a.known_providers(KEY) == await find(a, KEY)
            await b.stop_providing([KEY])
            while a.known_providers(KEY):
                await wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()


@exact_kinds
async def test_a_router_that_ends_is_found_no_longer(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as inner:
                (a, _), (b, b_port) = await kind.start([nursery, inner])
                await a.wait_ready()
                await b.provide([KEY])
                await wait_found(a, KEY, {b_port})
                inner.cancel_scope.cancel()
            assert await find(a, KEY) == []
            nursery.cancel_scope.cancel()


@every_kind
async def test_leaving_a_lookup_early_leaks_nothing(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (b, b_port), (c, c_port) = await kind.start([nursery] * 3)
            await a.wait_ready()
            for router in (b, c):
                await router.provide([KEY])
            await wait_found(a, KEY, {b_port, c_port})
            await wait_all_tasks_blocked()
            before = trio.lowlevel.current_statistics().tasks_living
            for _ in range(20):
                async with a.find_providers(KEY) as providers:
                    async for _provider in providers:
                        break
                async with a.find_providers(KEY):
                    pass
                with trio.CancelScope() as scope:
                    async with a.find_providers(KEY) as providers:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                assert scope.cancelled_caught
            # Some streams to peers may stay open, each with a task at its other end; 60 lookups leave nothing.
            while trio.lowlevel.current_statistics().tasks_living > before + 12:
                await wait_all_tasks_blocked(0.001)
            assert len(await wait_found(a, KEY, {b_port, c_port})) == 2
            nursery.cancel_scope.cancel()


@every_kind
async def test_thousands_of_keys(kind: Kind) -> None:
    keys = [Key(f"sha256:{n:064x}") for n in range(5_000)]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (b, b_port) = await kind.start([nursery] * 2)
            await a.wait_ready()
            await b.provide(keys)
            assert b.statistics().provided_keys == 5_000
            for key in keys[:: len(keys) // 25]:
                await wait_found(a, key, {b_port})
            await b.stop_providing(keys[:4_000])
            assert b.statistics().provided_keys == 1_000
            await wait_found(a, keys[-1], {b_port})
            nursery.cancel_scope.cancel()


@every_kind
async def test_keys_that_are_no_keys_of_this_node_can_be_taken_back(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            ((a, _),) = await kind.start([nursery] * 1)
            await a.stop_providing([KEY])
            await a.provide([])
            await a.stop_providing([])
            assert a.statistics().provided_keys == 0
            nursery.cancel_scope.cancel()


@every_kind
async def test_a_router_without_peers_is_ready_and_finds_nobody(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            ((a, _),) = await kind.start([nursery] * 1)
            await a.wait_ready()
            await a.provide([KEY])
            assert await find(a, KEY) == []
            statistics = a.statistics()
            assert statistics.alone
            assert statistics.peers == ()
            assert statistics.bootstrap_problem == ""
            nursery.cancel_scope.cancel()


@every_kind
async def test_statistics_name_the_peers(kind: Kind) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (a, _), (_, b_port) = await kind.start([nursery] * 2)
            await a.wait_ready()
            statistics = a.statistics()
            assert [peer.registry_port for peer in statistics.peers] == [b_port]
            assert not statistics.alone
            nursery.cancel_scope.cancel()
