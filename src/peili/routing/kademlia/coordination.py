"""Who fetches a digest, and who follows whom: how a node asks the coordinators (coordinating.py answers).

The coordinators of a digest are the two live nodes closest to it that speak the protocol; we may be one of them.
Both are asked at once and both keep the table; the closer one's answer counts, the other's where the closer is
silent. What a coordinator names is a hint: a source is only passed on with what our own authenticated
connection to that very peer shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final

import trio

from peili.beat import sleep_to_beat
from peili.follow.codec import MAX_SIZE, decode_answer, encode_ask
from peili.follow.coordinator import Coordinator
from peili.follow.message import Answer, Ask, Follow, Join, Peer, Source, follow_protocol
from peili.follow.replies import ASK_TIMEOUT, COORDINATORS, Counts, Silences, StandIn, judge
from peili.follow.settings import FollowSettings
from peili.follow.wire import InvalidFollowMessage
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import kad_key
from peili.kademlia.message import MessageType
from peili.libp2p.host import Libp2pError
from peili.routing.kademlia.candidates import Candidates
from peili.routing.kademlia.coordinating import Coordinating
from peili.routing.kademlia.exchange import StreamPool
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, NotAsked, PeerFailed
from peili.routing.kademlia.lookups import Lookups

RESOLVE_TIMEOUT: Final = 0.5  # seconds for a connection to a source that we do not know yet
EXPIRE_INTERVAL: Final = 1.0  # seconds

_Reply = tuple[int, Answer | None]  # the coordinator's place, 0 for the closest
_STAND_IN: Final = -1  # the place of the stand-in's deciding answer
_UNHEARD: Final = -2  # of one that decides nothing


class Coordination:
    """This node's part: asks the coordinators, and is one for the digests that lie closest to it."""

    def __init__(
        self,
        knowledge: Knowledge,
        links: Links,
        lookups: Lookups,
        settings: FollowSettings,
        *,
        own_contact: Callable[[], Contact],
        provided: Collection[bytes],
    ) -> None:
        self.coordinator = Coordinator(settings)
        self.protocol = follow_protocol(knowledge.settings.prefix)
        self.candidates = Candidates(knowledge, links, self.protocol)
        self.coordinating = Coordinating(
            self.coordinator, self.candidates, knowledge, links, own_contact=own_contact, provided=provided
        )
        self._knowledge = knowledge
        self._links = links
        self._lookups = lookups
        self._pools: dict[Link, StreamPool] = {}
        self._silences = Silences()

    async def run(self) -> None:
        """Forget what was not heard of for too long, until cancelled."""
        self.coordinating.joined()
        while True:
            await sleep_to_beat(EXPIRE_INTERVAL)
            self.coordinator.expire(trio.current_time())
            self._pools = {link: pool for link, pool in self._pools.items() if not link.connection.closed}
            self._silences.expire(trio.current_time())

    def lost(self, peer_id: bytes) -> None:
        """The last connection to this peer is gone, or it said goodbye."""
        self.coordinator.forget_peer(peer_id)

    async def ask(self, ask: Ask) -> Answer | None:
        """The coordinators' answer, its sources verified; None where no coordinator answers in time."""
        coordinators = await self._coordinators(ask.key)
        nursery = self._lookups.nursery
        if nursery is None:
            return None  # not running
        silent = self._silences.places(coordinators, trio.current_time())
        if silent and isinstance(ask, Join):
            ask = replace(ask, alone=True)
        send, receive = trio.open_memory_channel[_Reply](len(coordinators) + 2)
        for place, peer_id in enumerate(coordinators):
            # In the router's nursery: both are to hear it, also when we need to wait for one of them only.
            nursery.start_soon(self._ask_one, place, peer_id, ask, send)
        if StandIn.is_told(ask) and len(coordinators) <= COORDINATORS:
            self._ask_stand_in(ask, send, _UNHEARD)
        answer = await self._best_reply(ask, send, receive, len(coordinators), silent)
        return await self._verified(answer) if isinstance(answer, Follow) else answer

    async def _best_reply(
        self,
        ask: Ask,
        send: trio.MemorySendChannel[_Reply],
        receive: trio.MemoryReceiveChannel[_Reply],
        count: int,
        silent: Mapping[int, float],
    ) -> Answer | None:
        """What follow.replies says of the answers as they come in."""
        replies: dict[int, Answer | None] = {}
        started, stand_in, decisive = trio.current_time(), StandIn(ask, count), None
        while True:
            elapsed = trio.current_time() - started
            judged = judge(replies, count, elapsed, silent, decisive)
            if isinstance(judged, Counts):
                return judged.answer
            if elapsed >= stand_in.next_at(replies):
                self._ask_stand_in(ask, send, _STAND_IN if stand_in.asked() else _UNHEARD)
            with trio.move_on_at(started + min(judged.until, stand_in.next_at(replies))):
                place, answer = await receive.receive()
                if place >= 0:
                    replies[place] = answer
                elif place == _STAND_IN:
                    decisive = answer

    def _ask_stand_in(self, ask: Ask, send: trio.MemorySendChannel[_Reply], place: int) -> None:
        """Ask the next candidate, if there is one."""
        now, nursery = trio.current_time(), self._lookups.nursery
        others = (self.candidates.remembered(ask.key, now) or ())[COORDINATORS:]
        peer_id = next((peer_id for peer_id in others if not self._silences.has(peer_id, now)), None)
        if peer_id is not None and nursery is not None:  # the router may have ended while we waited
            nursery.start_soon(self._ask_one, place, peer_id, ask, send)

    def answering(self, key: bytes) -> tuple[bytes, ...]:
        """The ids of the coordinators that an `ask` hears; () where they are not known, without the silent ones.

        What they say includes whom they know to have it, so that nobody need ask them for providers as well.
        """
        now = trio.current_time()
        found = self.candidates.remembered(key, now) or ()
        return tuple(peer_id for peer_id in found[:COORDINATORS] if not self._silences.has(peer_id, now))

    async def _ask_one(self, place: int, peer_id: bytes, ask: Ask, send: trio.MemorySendChannel[_Reply]) -> None:
        answer: Answer | None = None
        if peer_id == self._knowledge.own_id:
            answer = self.coordinating.answer(self.coordinating.own_peer(), ask)
        else:
            try:
                with trio.move_on_after(ASK_TIMEOUT) as scope:
                    link = await self._reach(peer_id)
                    answer = decode_answer(await self._pool(link).request(encode_ask(ask)))
                    self._silences.heard(peer_id)
                if scope.cancelled_caught:
                    self._did_not_answer(peer_id)
            except NotAsked:
                pass  # this node's own fault
            except (PeerFailed, Libp2pError, InvalidFollowMessage):
                self._silences.failed(peer_id, trio.current_time())
        send.send_nowait((place, answer))  # the buffer has room for all

    def _did_not_answer(self, peer_id: bytes) -> None:
        """Wait for it no more for a while; routing finds out whether it is there at all."""
        new, nursery = self._silences.timed_out(peer_id, trio.current_time()), self._lookups.nursery
        contact = self._knowledge.table.get(peer_id)
        if new and nursery is not None and contact is not None:
            nursery.start_soon(self._lookups.check, contact)

    async def _coordinators(self, key: bytes) -> tuple[bytes, ...]:
        """The ids of the two nodes closest to the key, the closest first; more where both are silent.

        A silent one stays, as long as its connection does: all nodes have to mean the same two, and who is frozen
        for a moment is not so for everybody at once.
        """
        now = trio.current_time()
        found = self.candidates.remembered(key, now)
        if found is None:
            lookup = await self._lookups.run(kad_key(key), MessageType.FIND_NODE)
            found = self.candidates.remember(key, lookup.closest(self._knowledge.settings.k), now)
        chosen = found[:COORDINATORS]
        if all(self._silences.has(peer_id, now) for peer_id in chosen):
            others = (peer_id for peer_id in found if not self._silences.has(peer_id, now))
            chosen += tuple(islice(others, COORDINATORS))
        return chosen

    async def _reach(self, peer_id: bytes) -> Link:
        link = self._links.get(peer_id)
        if link is None or link.identify is None:
            contact = self._knowledge.table.get(peer_id)
            if contact is None:
                found = await self._lookups.run(peer_id, MessageType.FIND_NODE)
                contact = next((each for each in found.known() if each.id == peer_id), None)
            if contact is None:
                raise PeerFailed("nobody knows where this peer is")
            link = await self._links.reach(contact)
        if not link.speaks(self.protocol):
            raise PeerFailed("the peer does not speak our protocol")
        return link

    def _pool(self, link: Link) -> StreamPool:
        pool = self._pools.get(link)
        if pool is None:
            pool = self._pools[link] = StreamPool(link.connection, self.protocol, MAX_SIZE)
        return pool

    async def _verified(self, answer: Follow) -> Follow | None:
        """The sources as we know them ourselves; those that cannot be reached are left out."""
        sources: list[Source | None] = [None] * len(answer.sources)
        with trio.move_on_after(RESOLVE_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for place, source in enumerate(answer.sources):
                    nursery.start_soon(self._verify, place, source, sources)
        found = tuple(source for source in sources if source is not None)
        return Follow(found, answer.depth) if found else None

    async def _verify(self, place: int, source: Source, sources: list[Source | None]) -> None:
        if source.peer.id == self._knowledge.own_id:
            return
        try:
            link = await self._reach(source.peer.id)
        except PeerFailed:
            return
        contact = self._knowledge.provider_contact(link)
        if contact is not None:
            peer = Peer(link.id, link.host, contact.registry_port, contact.zone)
            sources[place] = Source(peer, source.offset, source.depth, source.committed)
