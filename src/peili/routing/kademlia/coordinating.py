"""This node as a coordinator: what it answers those that ask who has a digest, or fetches it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from math import inf
from typing import Final

import trio

from peili.follow.codec import MAX_SIZE, decode_ask, encode_answer
from peili.follow.coordinator import Coordinator
from peili.follow.message import Answer, Ask, Join, Lead, Leave, Peer, Renew
from peili.follow.wire import InvalidFollowMessage
from peili.kademlia.contact import Contact
from peili.kademlia.records import MAX_RECORDS_OF_PROVIDER
from peili.libp2p.host import Stream, StreamError
from peili.libp2p.multiaddr import InvalidMultiaddr, Multiaddr
from peili.routing.kademlia.announce import KEYS_A_SECOND, LONGEST_WAIT
from peili.routing.kademlia.candidates import Candidates
from peili.routing.kademlia.exchange import answer_requests
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links

# Seconds since a peer joined until all that is there is told to whom it concerns: the wait before, the time for as
# many keys as are taken of one peer, and some for busy machines.
ALL_TOLD: Final = LONGEST_WAIT + MAX_RECORDS_OF_PROVIDER / KEYS_A_SECOND + 4.0


class Coordinating:
    """Adds to the coordinator's table what this node knows of providers, and who it is that asks."""

    def __init__(
        self,
        coordinator: Coordinator,
        candidates: Candidates,
        knowledge: Knowledge,
        links: Links,
        *,
        own_contact: Callable[[], Contact],
        provided: Collection[bytes],
    ) -> None:
        """`provided`: the keys of what this node has itself."""
        self._coordinator = coordinator
        self._candidates = candidates
        self._knowledge = knowledge
        self._links = links
        self._own_contact = own_contact
        self._provided = provided
        self._joined_at = inf  # when a peer joined last, or we did

    def joined(self) -> None:
        """A peer is there anew, or we are: it and we have yet to hear of each other's keys."""
        self._joined_at = trio.current_time()

    async def serve(self, stream: Stream) -> None:
        """Handle one inbound stream."""
        link = self._links.of(stream.connection)

        def answer(request: bytes) -> bytes:
            return encode_answer(self.answer(self._peer_of(link), decode_ask(request)))

        try:
            await answer_requests(stream, MAX_SIZE, link.known, answer)
        except (StreamError, InvalidFollowMessage):
            await stream.reset()

    def answer(self, peer: Peer, ask: Ask) -> Answer:
        """What the table says to this peer."""
        now = trio.current_time()
        match ask:
            case Join():
                self._note_committed(ask.key, now)
                place = self._candidates.place(ask.key, now)
                answer = self._coordinator.join(peer, ask, now, deputy=place.deputy)
                if isinstance(answer, Lead) and place.near:
                    return replace(answer, unprovided=self._has_nobody(ask.key, now))
                return answer
            case Renew():
                if ask.source and not self._coordinator.knows(ask.key, ask.source):
                    self._note_committed(ask.key, now)  # whom it knew, and asked before us
                return self._coordinator.renew(peer, ask, now)
            case Leave():
                return self._coordinator.leave(peer, ask, now)

    def _has_nobody(self, key: bytes, now: float) -> bool:
        """Whether nobody has all of it, and we would know: whoever has it has told us. Not so of Spegel's nodes."""
        if self._knowledge.settings.believe_records or now - self._joined_at < ALL_TOLD:
            return False
        return not self._coordinator.is_committed(key) and self._knowledge.records.names_nobody(key, now)

    def _note_committed(self, key: bytes, now: float) -> None:
        if committed := self._committed(key, now):
            self._coordinator.provided(key, committed, now)

    def _committed(self, key: bytes, now: float) -> list[Peer]:
        """Who has it committed, as the records that we keep say."""
        contacts = self._knowledge.records.get(key, now, self._knowledge.random)
        peers = [Peer(each.id, _host_of(each), each.registry_port, each.zone) for each in contacts]
        return [*peers, self.own_peer()] if key in self._provided else peers

    def _peer_of(self, link: Link) -> Peer:
        contact = self._knowledge.provider_contact(link)
        port, zone = (contact.registry_port, contact.zone) if contact is not None else (0, "")
        return Peer(link.id, link.host, port, zone)

    def own_peer(self) -> Peer:
        """This node, as the others see it."""
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
