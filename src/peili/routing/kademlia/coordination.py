"""Who fetches a digest, and who follows whom: the way of these messages between nodes and coordinators.

The coordinators of a digest are the two live nodes closest to it that speak the protocol; we may be one of them.
Both are asked at once and both keep the table; the closer one's answer counts, the other's where the closer is
silent. What a coordinator names is a hint: a source is only passed on with what our own authenticated
connection to that very peer shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from typing import Final

import trio

from peili.beat import sleep_to_beat
from peili.follow.codec import MAX_SIZE, decode_answer, decode_ask, encode_answer, encode_ask
from peili.follow.coordinator import Coordinator
from peili.follow.message import Answer, Ask, Follow, Join, Lead, Leave, Peer, Renew, Source, follow_protocol
from peili.follow.replies import ASK_TIMEOUT, CANDIDATES, COORDINATORS, Counts, Silences, StandIn, judge
from peili.follow.settings import FollowSettings
from peili.follow.wire import InvalidFollowMessage
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import distance, kad_key, position
from peili.kademlia.message import MessageType
from peili.libp2p.host import Libp2pError, Stream, StreamError
from peili.libp2p.multiaddr import InvalidMultiaddr, Multiaddr
from peili.routing.kademlia.exchange import StreamPool, answer_requests
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, NotAsked, PeerFailed
from peili.routing.kademlia.lookups import Lookups

NEAREST_LIFETIME: Final = 10.0  # seconds for which the coordinators of a digest are remembered
MOST_NEAREST: Final = 1024
PLACE_LIFETIME: Final = 1.0  # seconds for which we remember how close to a digest we are
# Seconds since a peer joined until all that is there is told to whom it concerns: announce.LONGEST_WAIT, and the
# time that a peer takes to tell another tens of thousands of keys.
ALL_TOLD: Final = 10.0
RESOLVE_TIMEOUT: Final = 0.5  # seconds for a connection to a source that we do not know yet
EXPIRE_INTERVAL: Final = 1.0  # seconds

_Reply = tuple[int, Answer | None]  # the coordinator's place, 0 for the closest
_STAND_IN: Final = -1  # the place of the stand-in's deciding answer
_UNHEARD: Final = -2  # of one that decides nothing


@dataclass(frozen=True, slots=True)
class _Place:
    """Where this node is among those close to a key, as far as it knows without asking anybody."""

    deputy: bool  # exactly one coordinator is closer
    near: bool  # of all peers, followers or not, fewer than CANDIDATES are closer: whoever has it tells us


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
        self._knowledge = knowledge
        self._links = links
        self._lookups = lookups
        self._own_contact = own_contact
        self._provided = provided
        self._nearest: dict[bytes, tuple[float, tuple[bytes, ...]]] = {}  # until when, and the candidates
        self._pools: dict[Link, StreamPool] = {}
        self._silences = Silences()
        self._places: dict[bytes, tuple[float, _Place]] = {}  # by key, each with until when it counts
        self._joined_at = inf  # when a peer joined last, or we did

    async def run(self) -> None:
        """Forget what was not heard of for too long, until cancelled."""
        self.joined()
        while True:
            await sleep_to_beat(EXPIRE_INTERVAL)
            self.coordinator.expire(trio.current_time())
            self._pools = {link: pool for link, pool in self._pools.items() if not link.connection.closed}
            self._silences.expire(trio.current_time())

    def joined(self) -> None:
        """A peer is there anew, or we are: it and we have yet to hear of each other's keys."""
        self._joined_at = trio.current_time()

    def lost(self, peer_id: bytes) -> None:
        """The last connection to this peer is gone, or it said goodbye."""
        self.coordinator.forget_peer(peer_id)

    # Asking

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
        others = (self._remembered(ask.key, now) or ())[COORDINATORS:]
        peer_id = next((peer_id for peer_id in others if not self._silences.has(peer_id, now)), None)
        if peer_id is not None and nursery is not None:  # the router may have ended while we waited
            nursery.start_soon(self._ask_one, place, peer_id, ask, send)

    def answering(self, key: bytes) -> tuple[bytes, ...]:
        """The ids of the coordinators that an `ask` hears; () where they are not known, without the silent ones.

        What they say includes whom they know to have it, so that nobody need ask them for providers as well.
        """
        now = trio.current_time()
        found = self._remembered(key, now) or ()
        return tuple(peer_id for peer_id in found[:COORDINATORS] if not self._silences.has(peer_id, now))

    async def _ask_one(self, place: int, peer_id: bytes, ask: Ask, send: trio.MemorySendChannel[_Reply]) -> None:
        answer: Answer | None = None
        if peer_id == self._knowledge.own_id:
            answer = self._answer(self._own_peer(), ask)
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
        found = self._remembered(key, now)
        if found is None:
            lookup = await self._lookups.run(kad_key(key), MessageType.FIND_NODE)
            found = self._remember(key, lookup.closest(self._knowledge.settings.k), now)
        chosen = found[:COORDINATORS]
        if all(self._silences.has(peer_id, now) for peer_id in chosen):
            others = (peer_id for peer_id in found if not self._silences.has(peer_id, now))
            chosen += tuple(islice(others, COORDINATORS))
        return chosen

    def _remembered(self, key: bytes, now: float) -> tuple[bytes, ...] | None:
        """The candidates as far as they are known without asking anybody; else None."""
        until, found = self._nearest.get(key, (0.0, ()))
        if now < until and all(map(self._may_coordinate, found)):
            return found
        table = self._knowledge.table
        if not table.sees_everybody:
            return None
        return self._remember(key, table.closest(position(kad_key(key)), self._knowledge.settings.k), now)

    def _remember(self, key: bytes, contacts: Iterable[Contact], now: float) -> tuple[bytes, ...]:
        found = tuple(self._able(key, contacts))
        self._nearest.pop(key, None)
        self._nearest[key] = (now + NEAREST_LIFETIME, found)
        if len(self._nearest) > MOST_NEAREST:
            del self._nearest[next(iter(self._nearest))]
        return found

    def _able(self, key: bytes, contacts: Iterable[Contact]) -> list[bytes]:
        """The candidates among these, ourselves and those that we are connected with, the closest first."""
        # Those that we are connected with, too, though they may be suspect now.
        target = position(kad_key(key))
        ids = {contact.id for contact in contacts} | {link.id for link in self._links} | {self._knowledge.own_id}
        nearest = sorted(ids, key=lambda peer_id: distance(position(peer_id), target))
        return list(islice(filter(self._may_coordinate, nearest), CANDIDATES))

    def _may_coordinate(self, peer_id: bytes) -> bool:
        """Whether it speaks the protocol as far as we know, and is not known to be gone."""
        if peer_id == self._knowledge.own_id:
            return True
        link = self._links.get(peer_id)
        if link is not None and link.identify is not None:
            return link.speaks(self.protocol)
        return not self._knowledge.table.is_suspect(peer_id, trio.current_time())

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

    # Answering

    async def serve(self, stream: Stream) -> None:
        """Handle one inbound stream."""
        link = self._links.of(stream.connection)

        def answer(request: bytes) -> bytes:
            return encode_answer(self._answer(self._peer_of(link), decode_ask(request)))

        try:
            await answer_requests(stream, MAX_SIZE, link.known, answer)
        except (StreamError, InvalidFollowMessage):
            await stream.reset()

    def _answer(self, peer: Peer, ask: Ask) -> Answer:
        now = trio.current_time()
        match ask:
            case Join():
                self._note_committed(ask.key, now)
                place = self._place(ask.key, now)
                answer = self.coordinator.join(peer, ask, now, deputy=place.deputy)
                if isinstance(answer, Lead) and place.near and self._knows_all(now):
                    return replace(answer, unprovided=not self.coordinator.is_committed(ask.key))
                return answer
            case Renew():
                if ask.source and not self.coordinator.knows(ask.key, ask.source):
                    self._note_committed(ask.key, now)  # whom it knew, and asked before us
                return self.coordinator.renew(peer, ask, now)
            case Leave():
                return self.coordinator.leave(peer, ask, now)

    def _place(self, key: bytes, now: float) -> _Place:
        """How close to the key we are. Who is wrong about it makes a node wait a little, or ask others in vain."""
        until, place = self._places.get(key, (0.0, None))
        if place is None or now >= until:
            target, own_id = position(kad_key(key)), self._knowledge.own_id
            closest = self._knowledge.table.closest(target, CANDIDATES)
            own, last = distance(position(own_id), target), CANDIDATES - 1
            near = len(closest) <= last or own < distance(position(closest[last].id), target)
            place = _Place(deputy=self._able(key, closest)[1:2] == [own_id], near=near)
            self._places.pop(key, None)
            self._places[key] = (now + PLACE_LIFETIME, place)
            if len(self._places) > MOST_NEAREST:
                del self._places[next(iter(self._places))]
        return place

    def _knows_all(self, now: float) -> bool:
        """Whether whoever has something has told us, where we are among the closest. Not so of Spegel's nodes."""
        return not self._knowledge.settings.believe_records and now - self._joined_at >= ALL_TOLD

    def _note_committed(self, key: bytes, now: float) -> None:
        if committed := self._committed(key, now):
            self.coordinator.provided(key, committed, now)

    def _committed(self, key: bytes, now: float) -> list[Peer]:
        """Who has it committed, as the records that we keep say."""
        contacts = self._knowledge.records.get(key, now, self._knowledge.random)
        peers = [Peer(each.id, _host_of(each), each.registry_port, each.zone) for each in contacts]
        return [*peers, self._own_peer()] if key in self._provided else peers

    def _peer_of(self, link: Link) -> Peer:
        contact = self._knowledge.provider_contact(link)
        port, zone = (contact.registry_port, contact.zone) if contact is not None else (0, "")
        return Peer(link.id, link.host, port, zone)

    def _own_peer(self) -> Peer:
        contact = self._own_contact()
        return Peer(contact.id, _host_of(contact), contact.registry_port, contact.zone)


def _host_of(contact: Contact) -> str:
    """A hint only: whoever gets it looks for itself."""
    for raw in contact.addresses:
        try:
            address = Multiaddr.parse(raw)
        except InvalidMultiaddr:
            continue
        if address.protocol in ("ip4", "ip6"):
            return address.host
    return "0.0.0.0"
