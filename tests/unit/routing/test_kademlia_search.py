"""When a search asks the network, and when what this node was told is enough."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from peili.oci.key import Key
from peili.routing.kademlia import search
from tests.fakes.routers import Cluster, Running, until

KEY = Key("sha256:" + "cd" * 32)


async def told(cluster: Cluster) -> tuple[Running, Running]:
    """A node that has been told that another one provides the key."""
    a, b = [await cluster.start(5000 + n) for n in range(2)]
    await b.router.provide([KEY])
    await until(lambda: a.router.statistics().records == 1)
    return a, b


def lookups_of(running: Running, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When lookups begin from now on."""
    begun: list[float] = []
    lookups = running.router._lookups
    original = lookups.run

    def run(*arguments: Any, **named: Any) -> Any:
        begun.append(trio.current_time())
        return original(*arguments, **named)

    monkeypatch.setattr(lookups, "run", run)
    return begun


async def test_who_is_told_of_a_living_provider_asks_nobody(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = await told(cluster)
    begun = lookups_of(a, monkeypatch)
    async with a.router.find_providers(KEY) as providers:
        provider = await anext(providers)
    assert provider.port == 5001
    assert begun == []


async def test_who_wants_more_providers_has_the_others_asked_soon(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = await told(cluster)
    begun = lookups_of(a, monkeypatch)
    started = trio.current_time()
    async with a.router.find_providers(KEY) as providers:
        found = [provider.port async for provider in providers]
    assert found == [5001]
    assert [time - started < 1 for time in begun] == [True]


async def test_who_was_told_of_suspects_only_asks_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await told(cluster)
    knowledge = a.router._knowledge
    peer_id = next(contact.id for contact in knowledge.table.peers() if contact.registry_port == 5001)
    knowledge.failed(peer_id)
    begun = lookups_of(a, monkeypatch)
    monkeypatch.setattr(search, "HEAD_START", 3600.0)
    async with a.router.find_providers(KEY):
        await until(lambda: bool(begun))
    assert b.router.statistics().provided_keys == 1
