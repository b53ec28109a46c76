"""Finding a key's providers: hints come in, providers that we know ourselves come out.

A record names a peer and where it is said to be, and whoever answers may lie. So a provider is only yielded with
what our own authenticated connection to that very peer shows: its remote address, and the registry port of its
identify. That also finds the dead ones before the mirror does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heappop, heappush
from types import TracebackType
from typing import Final, Self

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import kad_key
from peili.kademlia.message import MessageType
from peili.libp2p.peer_id import InvalidPeerId, PeerId
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, NotAsked, PeerFailed
from peili.routing.kademlia.lookups import Lookups
from peili.routing.kademlia.signal import Signal
from peili.routing.protocol import Provider

ENOUGH_PROVIDERS: Final = 20  # then no further peer is asked
HEAD_START: Final = 0.01  # seconds for providers of our own records before anybody is asked for more
MOST_PROVIDERS: Final = 128  # of one search
MOST_DIALS: Final = 32  # of one search; a record may name any address
PARALLEL_DIALS: Final = 4  # of one search
CONNECT_PATIENCE: Final = 0.1  # seconds for a connection, where the word of a record would do as well


class ProviderSearch:
    """One search: an async context manager that is its own iterator. Its task belongs to the router's nursery.

    (A nursery of its own around the caller's block would wrap the caller's exceptions in groups.)
    """

    def __init__(
        self,
        digest: bytes,
        knowledge: Knowledge,
        links: Links,
        lookups: Lookups,
        spared: Collection[bytes] = (),
    ) -> None:
        """`spared`: ids of those that somebody else asks at the same time."""
        self._spared = spared
        self._digest = digest
        self._knowledge = knowledge
        self._links = links
        self._lookups = lookups
        self._found: list[tuple[bool, bool, float, Provider]] = []  # a heap, best first
        self._yielded: set[bytes] = {knowledge.own_id}  # or waiting in the heap
        self._tried: set[Contact] = set()
        self._dials = trio.CapacityLimiter(PARALLEL_DIALS)
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._change = Signal()
        self._ended = trio.Event()

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        if self._lookups.nursery is None:
            self._ended.set()
        else:
            self._lookups.nursery.start_soon(self._search)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):  # short: a cancelled task waits for nobody
            await self._ended.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Provider:
        await trio.lowlevel.checkpoint()
        while not self._found:
            if self._ended.is_set():
                raise StopAsyncIteration
            await self._change.wait()
        return heappop(self._found)[-1]

    async def _search(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    known = self._knowledge.records.get(self._digest, trio.current_time(), self._knowledge.random)
                    self._consider(known)
                    if any(not suspect for suspect, *_ in self._found):
                        # Mostly one of them answers, and the lookup would only have been in its way.
                        await trio.sleep(HEAD_START)
                    await self._lookups.run(
                        kad_key(self._digest), MessageType.GET_PROVIDERS, self._consider, spared=self._spared
                    )
                    self._nursery = None  # later answers start no dial
        finally:
            self._ended.set()
            self._change.ring()

    def _consider(self, hints: Iterable[Contact]) -> bool:
        """Take hints: those we are connected with are found at once, the others are dialled. True: enough found."""
        if self._scope.cancel_called:
            return True  # an answer that came after the caller left
        for hint in hints:
            if hint.id in self._yielded or len(self._yielded) > MOST_PROVIDERS:
                continue
            link = self._links.get(hint.id)
            if link is not None and link.identify is not None:
                self._take(link)
            elif hint not in self._tried and len(self._tried) < MOST_DIALS and self._nursery is not None:
                self._tried.add(hint)
                self._nursery.start_soon(self._verify, hint)
                if self._knowledge.settings.believe_records:
                    self._nursery.start_soon(self._believe_soon, hint)
        return len(self._yielded) > ENOUGH_PROVIDERS

    async def _verify(self, hint: Contact) -> None:
        contact, trusted = self._knowledge.best_known(hint)
        if self._knowledge.table.is_suspect(hint.id, trio.current_time()):
            return
        try:
            async with self._dials:
                self._take(await self._links.reach(contact))
        except NotAsked:
            return
        except PeerFailed:
            if trusted:
                self._knowledge.failed(hint.id)
            else:
                self._believe(hint)

    async def _believe_soon(self, hint: Contact) -> None:
        await trio.sleep(CONNECT_PATIENCE)
        if not self._knowledge.table.is_suspect(hint.id, trio.current_time()):
            self._believe(hint)

    def _believe(self, hint: Contact) -> None:
        """Spegel's way, if the settings ask for it: the record's address with our registry port, as a last resort.

        Whoever answers may name any address inside the peer networks; a connection is asked for first.
        """
        host, port = self._links.believable_host(hint), self._knowledge.settings.registry_port
        if not self._knowledge.settings.believe_records or host is None or hint.id in self._yielded or not port:
            return
        try:
            peer_id = str(PeerId(hint.id))
        except InvalidPeerId:
            return
        self._offer(Provider(peer_id, host, port), hint.id, suspect=True)

    def _take(self, link: Link) -> None:
        provider = _provider_at(link, self._knowledge)
        if provider is not None and link.id not in self._yielded:
            suspect = self._knowledge.table.is_suspect(link.id, trio.current_time())
            self._offer(provider, link.id, suspect=suspect)

    def _offer(self, provider: Provider, peer_id: bytes, *, suspect: bool) -> None:
        self._yielded.add(peer_id)
        heappush(self._found, (suspect, *_rank(provider, self._knowledge), provider))
        self._change.ring()


def known_providers(digest: bytes, knowledge: Knowledge, links: Links) -> list[Provider]:
    """The providers that our own records name and that we are connected with, but for suspects; best first."""
    now, ranked = trio.current_time(), []
    for hint in knowledge.records.get(digest, now, knowledge.random):
        link = links.get(hint.id)
        if link is None or link.identify is None or knowledge.table.is_suspect(hint.id, now):
            continue
        provider = _provider_at(link, knowledge)
        if provider is not None:
            ranked.append((_rank(provider, knowledge), provider))
    return [provider for _, provider in sorted(ranked)]


def _provider_at(link: Link, knowledge: Knowledge) -> Provider | None:
    """The peer at the other end as a provider; None where nothing can be fetched from it."""
    contact = knowledge.provider_contact(link)
    if contact is None or not knowledge.settings.is_peer_address(link.host):
        return None
    return Provider(str(link.connection.peer_id), link.host, contact.registry_port, contact.zone)


def _rank(provider: Provider, knowledge: Knowledge) -> tuple[bool, float]:
    """The same zone first, else in random order; the smaller the better."""
    own_zone = knowledge.settings.zone
    return not own_zone or provider.zone != own_zone, knowledge.random.random()
