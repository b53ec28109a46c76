from __future__ import annotations

import pytest
import trio

from peili.oci.key import Key
from peili.routing.memory import MemoryNetwork, MemoryRouter
from peili.routing.protocol import Provider
from peili.routing.static import StaticRouter

KEY = Key("sha256:" + "00" * 32)


async def found_by(router: MemoryRouter | StaticRouter) -> list[Provider]:
    async with router.find_providers(KEY) as providers:
        return [provider async for provider in providers]


async def test_the_same_zone_comes_first() -> None:
    network = MemoryNetwork()
    a = MemoryRouter(network, peer_id="a", zone="z1")
    peers = [MemoryRouter(network, peer_id=f"p{n}", zone=f"z{n % 3}") for n in range(9)]
    async with trio.open_nursery() as nursery:
        for router in (a, *peers):
            await nursery.start(router.run)
            await router.provide([KEY])
        zones = [provider.zone for provider in await found_by(a)]
        assert zones[:3] == ["z1"] * 3
        assert len(zones) == 9
        nursery.cancel_scope.cancel()


async def test_only_running_routers_are_found() -> None:
    network = MemoryNetwork()
    a, b = MemoryRouter(network, peer_id="a"), MemoryRouter(network, peer_id="b")
    await b.provide([KEY])
    assert await found_by(a) == []
    async with trio.open_nursery() as nursery:
        await nursery.start(b.run)
        assert await found_by(a) == [b.provider]
        nursery.cancel_scope.cancel()
    assert await found_by(a) == []


async def test_a_peer_id_runs_once() -> None:
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        await nursery.start(MemoryRouter(network, peer_id="a").run)
        with pytest.raises(OSError, match="'a' is running already"):
            await MemoryRouter(network, peer_id="a").run()
        nursery.cancel_scope.cancel()


async def test_static_peers_are_hinted_once_and_not_ourselves() -> None:
    router = StaticRouter([("10.0.0.1", 5000), ("10.0.0.2", 5000), ("10.0.0.1", 5000)], own=[("10.0.0.2", 5000)])
    assert await found_by(router) == [Provider("10.0.0.1:5000", "10.0.0.1", 5000)]
