"""Upkeep: peers that are silent or lost, buckets that are stale, the neighbourhood, records that expired."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from peili.beat import sleep_to_beat
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import position
from peili.kademlia.lookup import Lookup
from peili.kademlia.message import Message, MessageType
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, PeerFailed
from peili.routing.kademlia.lookups import Lookups
from peili.routing.kademlia.signal import Signal

TICK: Final = 1.0  # seconds
NEIGHBOURHOOD_INTERVAL: Final = 300.0  # seconds between lookups of the own id, when nothing happens
# Seconds before each further attempt to reach who was named near us and did not answer. It would stay a stranger
# until somebody new comes: the table checks its own peers only.
UNREACHED_PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SHORTEST_PAUSE: Final = 0.2  # seconds at least between two of them; doubles while new peers keep coming
LONGEST_PAUSE: Final = 10.0  # so that a whole cluster that starts at once does not drown in lookups
REDIAL_PAUSES: Final = (0.0, 0.2, 1.0, 3.0)  # seconds before each attempt; the table's checks go on afterwards
ASKED_BACK_PAUSE: Final = 1.0  # seconds between two questions to one peer that asks us
ENOUGH_LINKS: Final = 64  # with more, a peer that closed in order is left alone: it trims, or so does our host


class Upkeep:
    """Keeps the table true."""

    def __init__(self, knowledge: Knowledge, links: Links, lookups: Lookups) -> None:
        self._knowledge = knowledge
        self._links = links
        self._lookups = lookups
        self._news = Signal()
        self._redialled: set[bytes] = set()
        self._asked_back: set[Link] = set()  # lately; as many as there are connections

    def met(self, peer_id: bytes) -> None:
        """A peer is there anew. Where it is among our nearest it may know more of them."""
        own, k = position(self._knowledge.own_id), self._knowledge.settings.k
        if any(contact.id == peer_id for contact in self._knowledge.table.closest(own, k)):
            self._news.ring()

    def asked_by(self, link: Link) -> None:
        """A peer asked us something. A stranger or a suspect is asked back: who answers is a peer of the table.

        It was asked when it connected, but there may have been no place for it then, or it was frozen meanwhile.
        """
        nursery, protocol = self._lookups.nursery, self._knowledge.settings.kad_protocol
        if nursery is None or link in self._asked_back or not link.speaks(protocol):
            return
        if self._knowledge.table.wants(link.id):
            self._asked_back.add(link)
            nursery.start_soon(self._ask_back, link)

    async def _ask_back(self, link: Link) -> None:
        try:
            await self._lookups.ask(link, Message(MessageType.FIND_NODE, self._knowledge.own_id))
        except PeerFailed:
            pass  # it is what it was: unknown, or suspect
        finally:
            with trio.move_on_after(ASKED_BACK_PAUSE):
                await link.connection.wait_closed()
            self._asked_back.discard(link)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._explore)
            while True:
                now = trio.current_time()
                self._knowledge.records.sweep(now)
                for contact in self._knowledge.table.to_check(now):
                    nursery.start_soon(self._lookups.check, contact)
                await sleep_to_beat(TICK)

    async def _explore(self) -> None:
        """Look up our own id, and a key of each bucket that was not looked at for long."""
        knowledge, pause = self._knowledge, SHORTEST_PAUSE
        quiet = await self._wait_for_news(0.0, None)
        while True:
            pause = SHORTEST_PAUSE if quiet else min(2 * pause, LONGEST_PAUSE)
            lookup = await self._lookups.run(knowledge.own_id, MessageType.FIND_NODE, thorough=True)
            for key in knowledge.table.to_refresh(trio.current_time(), knowledge.random):
                await self._lookups.run(key, MessageType.FIND_NODE)
            quiet = await self._wait_for_news(pause * knowledge.random.uniform(0.75, 1.25), lookup)

    async def _wait_for_news(self, pause: float, lookup: Lookup | None) -> bool:
        """Wait so many seconds at least; True: nothing happened for long. Who was not reached is tried again."""
        quiet_since = trio.current_time() + pause
        with trio.move_on_after(NEIGHBOURHOOD_INTERVAL):
            async with trio.open_nursery() as nursery:
                if lookup is not None:
                    nursery.start_soon(self._reach, lookup)
                await trio.sleep(pause)
                await self._news.wait()
                nursery.cancel_scope.cancel()
        return trio.current_time() - quiet_since > LONGEST_PAUSE

    async def _reach(self, lookup: Lookup) -> None:
        """Try those again that others named; whoever answers is in the table then, and is news."""
        for pause in UNREACHED_PAUSES:
            await trio.sleep(pause)
            unreached = lookup.unreached(self._knowledge.settings.k)  # late answers count, too
            strangers = [each for each in unreached if self._knowledge.table.get(each.id) is None]
            if not strangers:
                return
            async with trio.open_nursery() as nursery:
                for contact in strangers:
                    nursery.start_soon(self._greet, contact)

    async def _greet(self, contact: Contact) -> None:
        """Others named its address: a failure says nothing of the peer."""
        with suppress(PeerFailed):
            await self._lookups.ping(contact)

    async def lost(self, peer_id: bytes, in_order: bool) -> None:
        """The last connection to a peer ended. It is out of the candidates until it is back.

        One that closed in order may only have trimmed its connections: it is asked before it counts as lost.
        """
        contact = self._knowledge.table.get(peer_id)
        if in_order and len(self._links) >= ENOUGH_LINKS:
            return
        if contact is None:
            self._knowledge.records.suspect(peer_id)
            return
        if not in_order:
            self._knowledge.failed(peer_id)
        if peer_id not in self._redialled:
            self._redialled.add(peer_id)
            try:
                await self._redial(contact)
            finally:
                self._redialled.discard(peer_id)

    async def _redial(self, contact: Contact) -> None:
        for pause in REDIAL_PAUSES:
            await trio.sleep(pause)
            if self._knowledge.table.get(contact.id) is None:
                return  # it said goodbye after all
            if await self._lookups.check(contact):
                return
