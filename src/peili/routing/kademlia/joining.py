"""Bootstrap in the network: who the sources name, which of them answer, and when to look again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from peili.libp2p.host import Host, Libp2pError, SelfDial
from peili.libp2p.peer_id import InvalidPeerId, PeerId
from peili.routing.bootstrap import BootstrapAddress, Source
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Links
from peili.routing.kademlia.signal import Signal
from peili.routing.resolve import BootstrapFailed, Fetch, resolve

BOOTSTRAP_DIAL_TIMEOUT: Final = 3.0  # seconds
FIRST_DIALS: Final = 20  # addresses of one round while there are no peers
LATER_DIALS: Final = 3  # of one round afterwards: enough to heal a split
PARALLEL_DIALS: Final = 10
TOLD_PROBLEMS: Final = 3  # of one round


class Joining:
    """Finds the first peers, and later those that a split of the network hides."""

    def __init__(self, host: Host, knowledge: Knowledge, links: Links, fetch: Fetch) -> None:
        self._host = host
        self._knowledge = knowledge
        self._links = links
        self._fetch = fetch
        self._own = set[tuple[str, int]]()
        self._now = Signal()
        self._answered = False  # somebody did in this round
        self.default_port = 0
        self.problem = ""  # why the last round found nobody
        self.alone = False  # the sources answered, and named nobody but us
        self.changed = Signal()  # a round ended

    def add_own(self, addresses: Iterable[tuple[str, int]]) -> None:
        """These addresses are this node's."""
        self._own.update(addresses)

    def hurry(self) -> None:
        """All peers are lost: start a round now."""
        self._now.ring()

    async def run(self) -> None:
        """Rounds for ever: with growing pauses while there is nobody, at intervals afterwards."""
        settings = self._knowledge.settings
        pause = settings.bootstrap_backoff
        while True:
            await self._round()
            self.changed.ring()
            if self._has_peers():
                pause = settings.bootstrap_backoff
                wait = settings.bootstrap_interval
            else:
                wait, pause = pause, min(2 * pause, settings.bootstrap_backoff_limit)
            # Jitter keeps nodes that started together from asking together.
            with trio.move_on_after(wait * self._knowledge.random.uniform(0.75, 1.25)):
                await self._now.wait()

    def _has_peers(self) -> bool:
        return len(self._knowledge.table) > 0

    async def _round(self) -> None:
        problems: list[str] = []
        found: list[BootstrapAddress] = []
        self._answered = False
        async with trio.open_nursery() as nursery:
            for source in self._knowledge.settings.bootstrap:
                nursery.start_soon(self._ask, source, found, problems)
        others = [address for address in dict.fromkeys(found) if not self._is_own(address)]
        connected = {place for link in self._links for place in link.places()}
        fresh = [address for address in others if (address.host, address.port) not in connected]
        count = LATER_DIALS if self._has_peers() else FIRST_DIALS
        await self._dial_some(self._knowledge.random.sample(fresh, min(count, len(fresh))), problems)
        # An address turns out to be ours only when it was dialled.
        strangers = [address for address in others if not self._is_own(address)]
        self.alone = not problems and not strangers
        self.problem = "" if self._has_peers() or self._answered else "; ".join(problems[:TOLD_PROBLEMS])

    def _is_own(self, address: BootstrapAddress) -> bool:
        return (address.host, address.port) in self._own or address.peer_id == str(self._host.peer_id)

    async def _ask(self, source: Source, found: list[BootstrapAddress], problems: list[str]) -> None:
        try:
            found += await resolve(source, self.default_port, self._fetch)
        except BootstrapFailed as error:
            problems.append(str(error))

    async def _dial_some(self, addresses: list[BootstrapAddress], problems: list[str]) -> None:
        limiter = trio.CapacityLimiter(PARALLEL_DIALS)
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(self._dial, address, limiter, problems)

    async def _dial(self, address: BootstrapAddress, limiter: trio.CapacityLimiter, problems: list[str]) -> None:
        """Who is greeted there enters the table by itself, once it has answered."""
        try:
            expected = PeerId.parse(address.peer_id) if address.peer_id else None
            async with limiter:
                connection = await self._host.connect(address.host, address.port, expected, BOOTSTRAP_DIAL_TIMEOUT)
            link = self._links.of(connection)
            with trio.move_on_after(BOOTSTRAP_DIAL_TIMEOUT):
                await link.greeted.wait()
            if not link.speaks(self._knowledge.settings.kad_protocol):
                problems.append(f"{address} does not speak {self._knowledge.settings.kad_protocol}")
            else:
                self._answered = True
        except SelfDial:
            self._own.add((address.host, address.port))
        except InvalidPeerId as error:
            problems.append(f"{address}: {error}")
        except Libp2pError as error:
            problems.append(f"{address}: {error}")
