"""Lookups: the pure state machine of peili.kademlia.lookup, and the requests that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import position
from peili.kademlia.lookup import Ask, Done, Lookup, Wait
from peili.kademlia.message import InvalidMessage, Message, MessageType, decode, encode
from peili.libp2p.host import Libp2pError
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, NotAsked, PeerFailed
from peili.routing.kademlia.signal import Signal

REQUEST_TIMEOUT: Final = 1.0  # seconds, the dial included
PARALLEL_REQUESTS: Final = 256  # of all lookups; beyond it a request waits, and its lookup asks others

TakeProviders = Callable[[Sequence[Contact]], bool]  # True when there are enough


class Lookups:
    """Asks peers. A request outlives its lookup: how a slow peer did in the end is worth knowing."""

    def __init__(self, knowledge: Knowledge, links: Links) -> None:
        self._knowledge = knowledge
        self._links = links
        self._requests = trio.CapacityLimiter(PARALLEL_REQUESTS)
        self.nursery: trio.Nursery | None = None  # the router's, while it runs

    async def ask(self, link: Link, message: Message) -> Message:
        """One request to a peer that we are connected with. Raise PeerFailed."""
        answer = None
        try:
            with trio.move_on_after(REQUEST_TIMEOUT):
                answer = decode(await link.kad.request(encode(message)))
        except (Libp2pError, InvalidMessage) as error:
            raise PeerFailed(str(error)) from error
        if answer is None:
            raise PeerFailed(f"no answer within {REQUEST_TIMEOUT:g} s")
        if answer.type is not message.type:
            raise PeerFailed("an answer of another type")
        self._knowledge.heard(link)
        return answer

    async def ping(self, contact: Contact) -> None:
        """Reach a peer, by an address that failed lately, too; it is heard afterwards. Raise PeerFailed."""
        await self.ask(await self._links.reach(contact, insist=True), Message(MessageType.PING))

    async def check(self, contact: Contact) -> bool:
        """Whether a peer of the table answers; it is heard or suspect afterwards, where it could be asked."""
        try:
            await self.ping(contact)
        except NotAsked:
            self._knowledge.table.not_asked(contact.id, trio.current_time())
            return False
        except PeerFailed:
            self._knowledge.failed(contact.id)
            return False
        return True

    async def run(
        self,
        key: bytes,
        kind: MessageType,
        providers: TakeProviders | None = None,
        *,
        thorough: bool = False,
        spared: Collection[bytes] = (),
    ) -> Lookup:
        """Look up the bytes of a Kademlia key; ends when nobody closer is left to be asked.

        `providers` gets what each answer names, before it is known whether it is true. `thorough`: also where the
        whole network seems to be known already. `spared`: those that need not be asked, where it is.
        """
        knowledge, target = self._knowledge, position(key)
        sees_everybody = knowledge.table.sees_everybody and not thorough
        lookup = Lookup(
            target,
            knowledge.table.seeds(target, knowledge.settings.k),
            knowledge.own_id,
            knowledge.settings.lookup,
            sees_everybody=sees_everybody,
            spared=spared if sees_everybody else (),
            is_suspect=lambda peer_id: knowledge.table.is_suspect(peer_id, trio.current_time()),
        )
        change = Signal()
        while self.nursery is not None:
            match lookup.next_step(trio.current_time()):
                case Done():
                    break
                case Ask(peers):
                    for contact in peers:
                        self.nursery.start_soon(
                            self._ask_for, lookup, contact, Message(kind, key), change, providers
                        )
                case Wait(until):
                    with trio.move_on_at(until):
                        await change.wait()
        knowledge.table.looked_up(target, trio.current_time())
        return lookup

    async def _ask_for(
        self, lookup: Lookup, contact: Contact, request: Message, change: Signal, providers: TakeProviders | None
    ) -> None:
        contact, trusted = self._knowledge.best_known(contact)
        try:
            async with self._requests:
                trusted = trusted or self._links.get(contact.id) is not None
                link = await self._links.reach(contact)
                trusted = True  # it proved who it is: what fails from now on is its own doing
                answer = await self.ask(link, request)
        except PeerFailed as error:
            lookup.failed(contact.id, trio.current_time())
            # Where only a third party named the address, its failure says nothing of the peer.
            if trusted and not isinstance(error, NotAsked):
                self._knowledge.failed(contact.id)
        else:
            lookup.answered(contact.id, answer.closer_peers, trio.current_time(), answer.provider_peers)
            if providers is not None and providers(answer.provider_peers):
                lookup.stop()
        change.ring()
