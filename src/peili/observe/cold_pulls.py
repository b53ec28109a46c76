"""What this node fetches together with others now, and sums since the start, for `peili status`.

It hears what the coordinators are asked and what they say, and hands everything on to the metrics. What a request
is for is noted when it comes in: the messages name a digest only by its place in the keyspace.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import trio

from peili.follow.coordinator import Coordinator, CoordinatorStatistics
from peili.follow.message import Answer, Ask, Follow, Join, Keep, Lead, Leave, Renew, Wait
from peili.http.message import SocketAddress
from peili.mirror.keeper import FollowObserver, follow_key
from peili.oci.digest import Digest, InvalidDigest
from peili.routing.protocol import Coordination

MAXIMUM_FETCHES: Final = 256  # a node pulls a few images at a time
MAXIMUM_NAMES: Final = 1024  # digests that were asked for lately
FORGOTTEN_AFTER: Final = 5.0  # seconds without a message: the pull was cancelled, or nobody writes it


class Part(StrEnum):
    """What this node does with a digest."""

    LEADS = "leads"  # from upstream, and others may follow
    FOLLOWS = "follows"
    WAITS = "waits"  # for somebody who is about to fetch it


@dataclass(frozen=True, slots=True)
class Fetch:
    """One digest in flight, as of the last message about it. `digest` is empty where nobody here asked for it.

    `offset`: bytes that this node held then; `total` 0: not known. `depth`: hops from upstream, 0 for who leads or
    waits. `source`: whom it follows, `host:port` or, where that is not known, a peer id in hex.
    """

    digest: str
    part: Part
    offset: int
    total: int
    depth: int
    source: str


@dataclass(frozen=True, slots=True)
class ColdPullStatistics:
    """A snapshot for the status page; the counts are since the start. `coordinator`: None where there is none.

    `left_to_upstream`: by reason. `growing_bytes`: taken from blobs that were still growing on their source.
    """

    now: tuple[Fetch, ...]
    leads: int
    follows: int
    growing_bytes: int
    left_to_upstream: dict[str, int]
    coordinator: CoordinatorStatistics | None


class Coordinating(Coordination, Protocol):
    """Coordination whose own table can be looked at."""

    @property
    def coordinator(self) -> Coordinator:
        """This node's part of the coordinators' work."""
        ...


@dataclass(slots=True)
class _Fetch:
    part: Part
    offset: int
    total: int
    heard: float
    depth: int = 0
    source: bytes = b""
    addresses: dict[bytes, str] = field(default_factory=dict)  # of the sources that were named last


class ColdPulls:
    """Hears of leads and follows. Times in seconds of the clock that it is given."""

    def __init__(self, metrics: FollowObserver, clock: Callable[[], float] = trio.current_time) -> None:
        self._metrics = metrics
        self._clock = clock
        self._names: OrderedDict[bytes, str] = OrderedDict()
        self._fetches: OrderedDict[bytes, _Fetch] = OrderedDict()
        self._leads = self._follows = self._growing_bytes = 0
        self._left: Counter[str] = Counter()

    def asked(self, target: str) -> None:
        """A request with this target came in."""
        with suppress(InvalidDigest):
            digest = Digest.parse(target.partition("?")[0].rpartition("/")[2])
            key = follow_key(digest)
            self._names[key] = str(digest)
            self._names.move_to_end(key)
            while len(self._names) > MAXIMUM_NAMES:
                self._names.popitem(last=False)

    def statistics(self, coordinator: CoordinatorStatistics | None = None) -> ColdPullStatistics:
        """A frozen snapshot."""
        now = self._clock()
        live = [(key, each) for key, each in self._fetches.items() if now - each.heard < FORGOTTEN_AFTER]
        return ColdPullStatistics(
            now=tuple(self._describe(key, each) for key, each in live),
            leads=self._leads,
            follows=self._follows,
            growing_bytes=self._growing_bytes,
            left_to_upstream=dict(self._left),
            coordinator=coordinator,
        )

    # What happens (FollowObserver)

    def told(self, ask: Ask, answer: Answer | None) -> None:
        """What the coordinators said; None: they were silent."""
        self._metrics.told(ask, answer)
        match ask:
            case Join():
                self._joined(ask, answer)
            case Renew():
                self._renewed(ask, answer)
            case Leave():
                self._fetches.pop(ask.key, None)

    def leading(self) -> None:
        """This node fetches a digest from upstream, for the others too."""
        self._leads += 1
        self._metrics.leading()

    def following(self, depth: int) -> None:
        """This node takes a digest from a source at this depth of the tree."""
        self._follows += 1
        self._metrics.following(depth)

    def followed_bytes(self, count: int) -> None:
        """So many bytes came from blobs that were still growing on their source."""
        self._growing_bytes += count
        self._metrics.followed_bytes(count)

    def left_to_upstream(self, reason: str) -> None:
        """A pull that could have followed goes upstream."""
        self._left[reason] += 1
        self._metrics.left_to_upstream(reason)

    def thrown_away(self, digest: Digest, providers: Collection[str]) -> None:
        """containerd threw away what it received of this digest from these peers."""
        self._metrics.thrown_away(digest, providers)

    # What becomes of it

    def _joined(self, join: Join, answer: Answer | None) -> None:
        match answer:
            case Lead():
                self._note(join.key, Part.LEADS, join.offset, join.total)
            case Wait():
                self._note(join.key, Part.WAITS, join.offset, join.total)
            case Follow(sources, depth) if sources:
                fetch = self._note(join.key, Part.FOLLOWS, join.offset, join.total)
                fetch.addresses = _addresses(answer)
                fetch.source, fetch.depth = sources[0].peer.id, depth
            case _:
                self._fetches.pop(join.key, None)

    def _renewed(self, renew: Renew, answer: Answer | None) -> None:
        fetch = self._note(renew.key, Part.FOLLOWS if renew.source else Part.LEADS, renew.offset, renew.total)
        fetch.source = renew.source
        if not renew.source:
            fetch.depth = 0
        match answer:
            case Keep(depth) if depth:
                fetch.depth = depth
            case Follow():
                # Whether it moves there, the next Renew says.
                present = {key: text for key, text in fetch.addresses.items() if key == fetch.source}
                fetch.addresses = present | _addresses(answer)

    def _note(self, key: bytes, part: Part, offset: int, total: int) -> _Fetch:
        known = self._fetches.pop(key, None)
        fetch = _Fetch(part, offset, total, self._clock())
        if known is not None:
            fetch.total, fetch.addresses = total or known.total, known.addresses
            fetch.depth = known.depth if part is Part.FOLLOWS else 0
        self._fetches[key] = fetch
        while len(self._fetches) > MAXIMUM_FETCHES:
            self._fetches.popitem(last=False)
        return fetch

    def _describe(self, key: bytes, fetch: _Fetch) -> Fetch:
        source = fetch.addresses.get(fetch.source, fetch.source.hex())
        return Fetch(self._names.get(key, ""), fetch.part, fetch.offset, fetch.total, fetch.depth, source)


def _addresses(follow: Follow) -> dict[bytes, str]:
    peers = (source.peer for source in follow.sources)
    return {peer.id: str(SocketAddress(peer.host, peer.port)) for peer in peers}
