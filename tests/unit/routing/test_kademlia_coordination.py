"""The coordinators of a digest: three or four real routers on loopback, some of which may be silent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from random import Random

import pytest
import trio

from peili.follow import replies
from peili.follow.deputy import HOLD, SOLE
from peili.follow.message import Ask, Follow, Join, Lead, Leave, Outcome, Peer, Renew
from peili.follow.replies import ASK_TIMEOUT, FROZEN_TIME, SILENT_LEAD_PATIENCE
from peili.follow.settings import FollowSettings
from peili.kademlia.keyspace import distance, kad_key, position
from peili.kademlia.message import Message, MessageType
from peili.libp2p.host import Stream
from peili.oci.digest import Digest
from peili.oci.key import digest_key
from peili.routing.kademlia import candidates, coordinating, coordination
from peili.routing.kademlia.candidates import Place
from peili.routing.kademlia.coordination import Coordination
from peili.routing.kademlia.links import Link
from tests.fakes.routers import Cluster, Running, until

KEY = sha256(b"one").digest()
HELD = digest_key(Digest("sha256", "1" * 64))
PATIENT = 0.15  # seconds that this machine may be late


@dataclass
class Nodes:
    """In the order of their distance to KEY: the coordinator, its deputy, and who is neither."""

    nodes: list[Running]

    def of(self, place: int) -> Coordination:
        coordination = self.nodes[place].router.coordination
        assert coordination is not None
        return coordination

    async def ask(self, place: int, ask: Ask) -> tuple[object, float]:
        """The answer, and how long it took."""
        started = trio.current_time()
        return await self.of(place).ask(ask), trio.current_time() - started

    async def join(self, place: int, key: bytes = KEY) -> tuple[object, float]:
        """Ask until it is not to wait any more."""
        started = trio.current_time()
        while True:
            answer, _ = await self.ask(place, Join(key))
            if isinstance(answer, Lead | Follow):
                return answer, trio.current_time() - started
            await trio.sleep(0.05)

    def freeze(self, place: int) -> None:
        """It takes every question from others, and answers none."""

        async def silent(stream: Stream) -> None:
            await trio.sleep_forever()

        self.nodes[place].router._host.set_handler(self.of(place).protocol, silent)


def of_key(nodes: list[Running], key: bytes) -> list[Running]:
    def away(running: Running) -> int:
        return distance(position(running.router._knowledge.own_id), position(kad_key(key)))

    return sorted(nodes, key=away)


async def connected(cluster: Cluster, count: int) -> Nodes:
    """So many, each of which is connected with all others."""
    nodes = [await cluster.start(5000 + n, follow=FollowSettings()) for n in range(count)]

    def knows_all(running: Running) -> bool:
        links, table = running.router._links, running.router._knowledge.table
        return len({link.id for link in links if link.identify is not None}) == count - 1 and table.sees_everybody

    for running in nodes:
        await running.router.wait_ready()
    await until(lambda: all(map(knows_all, nodes)))
    return Nodes(of_key(nodes, KEY))


@pytest.fixture
async def three(cluster: Cluster) -> Nodes:
    return await connected(cluster, 3)


async def test_one_leads_and_the_others_follow_it(three: Nodes) -> None:
    answer, seconds = await three.join(2)
    assert isinstance(answer, Lead)
    assert seconds < PATIENT
    answer, _ = await three.join(1)
    assert isinstance(answer, Follow)
    assert answer.sources[0].peer.port == three.nodes[2].router._settings.registry_port


async def test_the_deputy_knows_that_it_is_one(three: Nodes) -> None:
    now = trio.current_time()
    assert [three.of(place).candidates.place(KEY, now).deputy for place in range(3)] == [False, True, False]


async def test_a_silent_coordinator_costs_its_time_once(three: Nodes) -> None:
    three.freeze(0)
    answer, seconds = await three.join(2)
    assert isinstance(answer, Lead)
    assert seconds < SOLE + PATIENT, "nobody else asks"
    answer, _ = await three.ask(2, Renew(KEY, 0))
    assert answer is not None
    again = next(
        key
        for key in (sha256(b"%d" % number).digest() for number in range(1000))
        if of_key(three.nodes, key) == three.nodes
    )
    await trio.sleep(max(FROZEN_TIME - seconds, 0))
    answer, seconds = await three.join(2, again)
    assert isinstance(answer, Lead)
    assert seconds < SILENT_LEAD_PATIENCE + PATIENT


async def test_two_coordinators_that_just_froze_are_not_waited_for_where_nobody_else_asks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (replies, coordination):
        monkeypatch.setattr(module, "ASK_TIMEOUT", 30.0)
    four = await connected(cluster, 4)
    four.freeze(0)
    four.freeze(1)
    answer, seconds = await four.ask(3, Join(KEY))
    assert isinstance(answer, Lead)
    assert seconds < replies.ASK_TIMEOUT


async def test_a_question_under_way_when_the_router_ends_has_no_answer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = await connected(cluster, 4)
    four.freeze(0)
    four.freeze(1)
    answers: list[object] = []

    async def ask() -> None:
        answers.append((await four.ask(3, Join(KEY)))[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await four.nodes[3].stop()
    assert answers == [None]


async def test_the_stand_in_of_two_frozen_coordinators_knows_who_leads(cluster: Cluster) -> None:
    four = await connected(cluster, 4)
    assert isinstance((await four.join(3))[0], Lead)
    await four.ask(3, Renew(KEY, 0))
    stand_in = four.of(2).coordinator
    await until(lambda: stand_in.knows(KEY, four.nodes[3].router._knowledge.own_id))
    four.freeze(0)
    four.freeze(1)
    answer, seconds = await four.ask(2, Join(KEY))
    assert not isinstance(answer, Lead)
    assert seconds >= ASK_TIMEOUT, "whoever else asks waits for the coordinators, as long as makes sense"


async def test_a_coordinator_that_is_gone_costs_no_time(three: Nodes) -> None:
    await three.nodes[0].stop()
    answer, seconds = await three.join(2)
    assert isinstance(answer, Lead)
    assert seconds < HOLD


async def test_a_lead_of_the_deputy_waits_for_a_late_coordinator(three: Nodes) -> None:
    """Who is closer has told another node to lead already; its answer comes 0.1 s late."""
    coordination, late = three.of(0), trio.Event()
    await three.join(1)

    async def slow(stream: Stream) -> None:
        late.set()
        await trio.sleep(0.1)
        await coordination.coordinating.serve(stream)

    three.nodes[0].router._host.set_handler(coordination.protocol, slow)
    deputy = three.of(1).coordinator
    deputy.forget_peer(three.of(1)._knowledge.own_id)
    deputy.join(Peer(b"another", "127.0.0.1", 5000), Join(KEY), trio.current_time(), deputy=True)
    answer, _ = await three.join(2)
    assert late.is_set()
    assert isinstance(answer, Follow)


async def test_a_search_beside_a_question_to_the_coordinators_does_not_ask_them_twice(
    three: Nodes,
) -> None:
    closest, deputy, other = of_key(three.nodes, sha256(HELD.encode()).digest())
    router, asked = other.router, []
    really_ask = router._lookups.ask

    async def ask(link: Link, message: Message) -> Message:
        if message.type is MessageType.GET_PROVIDERS:
            asked.append(link.id)
        return await really_ask(link, message)

    router._lookups.ask = ask  # type: ignore[method-assign]
    async with router.find_providers(HELD, beside_coordinators=True) as providers:
        assert [provider async for provider in providers] == []
    assert asked == []
    async with router.find_providers(HELD) as providers:
        assert [provider async for provider in providers] == []
    assert set(asked) == {closest.router._knowledge.own_id, deputy.router._knowledge.own_id}


async def test_a_silent_coordinator_is_not_relied_on(three: Nodes) -> None:
    three.freeze(0)
    await three.join(2)
    await until(lambda: three.of(2).answering(KEY) == (three.nodes[1].router._knowledge.own_id,))


# Whether nobody has it


def told(nodes: Nodes, key: bytes = KEY, *excluded: bytes) -> Lead:
    """What the closest coordinator says to the last node, which is to lead."""
    asker = nodes.of(len(nodes.nodes) - 1).coordinating.own_peer()
    answer = nodes.of(0).coordinating.answer(asker, Join(key, excluded=excluded))
    assert isinstance(answer, Lead)
    return answer


async def test_nobody_has_it_as_soon_as_everybody_had_time_to_tell(
    three: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not told(three).unprovided, "the nodes have only just met"
    monkeypatch.setattr(coordinating, "ALL_TOLD", 0.0)
    assert told(three).unprovided
    with trio.fail_after(5):
        while True:  # over the wire; a late reply of the other coordinator is none
            answer, _ = await three.join(2)
            assert isinstance(answer, Lead)
            if answer.unprovided:
                break


async def test_after_a_peer_joined_there_may_be_something_to_hear(cluster: Cluster) -> None:
    nodes = await connected(cluster, 2)
    before = [nodes.of(place).coordinating._joined_at for place in range(2)]
    await cluster.start(5010, follow=FollowSettings())
    await until(lambda: all(nodes.of(place).coordinating._joined_at > before[place] for place in range(2)))


async def test_who_failed_the_asking_node_has_it_all_the_same(
    three: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinating, "ALL_TOLD", 0.0)
    key = sha256(HELD.encode()).digest()
    three.nodes = of_key(three.nodes, key)
    assert told(three, key).unprovided
    closest, holder = three.nodes[0].router._knowledge, three.nodes[1].router
    await holder.provide([HELD])
    await until(lambda: bool(closest.records.get(key, trio.current_time(), Random())))
    assert not told(three, key, holder._knowledge.own_id).unprovided


async def test_who_is_told_of_commits_only_knows_of_them(three: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node has it, and its provider record is still on the way."""
    monkeypatch.setattr(coordinating, "ALL_TOLD", 0.0)
    holder = three.of(1).coordinating.own_peer()
    assert told(three).unprovided
    three.of(0).coordinating.answer(holder, Leave(KEY, Outcome.COMMITTED))
    assert not told(three, KEY, holder.id).unprovided


async def test_a_suspect_may_have_it(three: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinating, "ALL_TOLD", 0.0)
    closest, other = three.nodes[0].router._knowledge, three.nodes[1].router
    assert told(three).unprovided
    closest.records.add(other._own, [KEY], trio.current_time())
    closest.records.suspect(other._knowledge.own_id)
    assert not told(three).unprovided


async def test_who_connects_anew_is_still_to_tell_what_it_has(
    three: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = three.nodes[0].router
    link = router._links.get(three.nodes[1].router._knowledge.own_id)
    assert link is not None
    monkeypatch.setattr(router, "_links", [link])  # they may have dialled each other at once
    three.of(0).coordinating._joined_at = -math.inf
    router._identified(link)
    assert three.of(0).coordinating._joined_at > -math.inf


@pytest.mark.parametrize("spegel", [False, True])
async def test_spegels_nodes_tell_the_coordinators_nothing_in_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, spegel: bool
) -> None:
    monkeypatch.setattr(coordinating, "ALL_TOLD", 0.0)
    running = await cluster.start(5000, follow=FollowSettings(), believe_records=spegel)
    own = running.router.coordination
    assert own is not None
    await until(lambda: own.coordinating._joined_at < math.inf)
    assert told(Nodes([running])).unprovided is not spegel


async def test_only_who_is_close_to_a_key_is_told_who_has_it(three: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    now = trio.current_time()
    assert [three.of(place).candidates.place(KEY, now).near for place in range(3)] == [True] * 3
    monkeypatch.setattr(coordinating, "ALL_TOLD", 0.0)
    assert told(three).unprovided
    three.of(0).candidates._places[KEY] = math.inf, Place(deputy=False, near=False)
    assert not told(three).unprovided
    del three.of(0).candidates._places[KEY]
    monkeypatch.setattr(candidates, "CANDIDATES", 2)
    assert [three.of(place).candidates.place(KEY, now + 2).near for place in range(3)] == [True, True, False]
