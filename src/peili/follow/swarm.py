"""One digest as its coordinator sees it: who fetches it, from whom, how far, how fast. Pure bookkeeping.

Offsets are as old as the last Renew; `estimate` carries them on at the measured rate. It only proposes: a source
itself refuses whom it could come to wait for (serving.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import Final

from peili.follow.message import Peer
from peili.follow.settings import FollowSettings

_SHORTEST_SAMPLE: Final = 0.2  # seconds between two reports that say something of a rate
_ALIVE_INTERVALS: Final = 2.5  # renewals that may be missed
_REPORTS_AT_ONCE: Final = 500.0  # Renews a second that one digest may cost its coordinator
LONGEST_INTERVAL: Final = 2.0  # seconds between two Renews
FULL_INTERVAL: Final = 10.0  # the same of who waits for its own reader; there may be a thousand such on a node
_LEAVES_SEEN, _OPEN_SEEN = 16, 8  # sources that a first join looks at: a herd has to be answered in no time


class Role(Enum):
    """What a node does with a digest."""

    WAITING = auto()  # joined, and told to wait
    LEADING = auto()  # from upstream
    FOLLOWING = auto()
    COMMITTED = auto()


@dataclass(slots=True)
class Entry:
    """One node and one digest. `source` empty: from upstream, or from nobody yet."""

    peer: Peer
    sequence: int
    joined: float
    heard: float
    role: Role = Role.WAITING
    offset: int = 0
    source: bytes = b""
    depth: int = 0
    interval: float = 0.0
    granted: float = 0.0  # the lead
    says_so: bool = False  # it has renewed since: it does what it was told
    grew_at: float | None = None
    pause: float = 0.0  # between its last two growths; containerd writes 1 MiB at a time
    stays_since: float = 0.0  # when it last grew, or took its present source
    sampled: float = 0.0
    sampled_offset: int = 0
    rate: float = 0.0  # bytes a second; 0: not measured
    moves: int = 0
    moved_at: float = 0.0
    put_off: int = 0  # how often it was to wait though every lead has failed it, since it last grew
    queued: bool = False  # it leads, and waits for other downloads of its node, or is outrun by them
    doubted: bool = False  # somebody whom it served says that it failed, and it was not heard since

    def report(self, offset: int, now: float) -> None:
        """It says that it holds so many bytes."""
        self.heard, self.doubted = now, False
        if offset > self.offset:
            self.pause = now - self.grew_at if self.grew_at is not None else 0.0
            self.grew_at = self.stays_since = now
            self.put_off = 0
        elapsed = now - self.sampled
        if offset < self.offset:
            self.sampled, self.sampled_offset, self.rate = now, offset, 0.0
        elif elapsed >= _SHORTEST_SAMPLE:
            rate = (offset - self.sampled_offset) / elapsed
            self.rate = rate if self.rate == 0.0 else (self.rate + rate) / 2
            self.sampled, self.sampled_offset = now, offset
        self.offset = offset


@dataclass(slots=True)
class Swarm:
    """All entries of one digest. `total`: the largest that anybody said, 0 before; it only weighs sources."""

    settings: FollowSettings
    total: int = 0
    entries: dict[bytes, Entry] = field(default_factory=dict)
    created: float = 0.0
    touched: float = 0.0
    asked: float | None = None  # when a node first joined while nobody was known to fetch it (deputy.py)
    _sequence: int = 0
    _children: dict[bytes, set[bytes]] = field(default_factory=dict)
    _leads: set[bytes] = field(default_factory=set)
    _committed: dict[bytes, None] = field(default_factory=dict)
    _leaves: dict[bytes, None] = field(default_factory=dict)
    _open: dict[bytes, None] = field(default_factory=dict)

    def add(self, peer: Peer, offset: int, now: float) -> Entry:
        """A node that was not known; the caller keeps the bounds."""
        self._sequence += 1
        entry = Entry(peer, self._sequence, joined=now, heard=now, offset=offset, stays_since=now)
        entry.sampled, entry.sampled_offset = now, offset
        self.entries[peer.id] = entry
        self._index(peer.id)
        return entry

    def remove(self, peer_id: bytes) -> None:
        """Its children keep its name as their source until they find another."""
        entry = self.entries.pop(peer_id, None)
        if entry is not None:
            self._unlink(entry)
            self._leads.discard(peer_id)
            self._committed.pop(peer_id, None)
            self._index(peer_id)

    def set_role(self, entry: Entry, role: Role, source: bytes, now: float) -> None:
        """What it does from now on, and from whom it takes the bytes."""
        if role is not entry.role or source != entry.source:
            entry.stays_since = now
        if self.entries.get(entry.peer.id) is not entry:
            entry.role, entry.source = role, source  # a stranger beyond the bounds
            return
        self._unlink(entry)
        entry.role, entry.source = role, source
        peer_id = entry.peer.id
        (self._leads.add if role is Role.LEADING else self._leads.discard)(peer_id)
        if role is Role.COMMITTED:
            self._committed[peer_id] = None
            entry.offset, entry.depth = max(self.total, entry.offset), 0
        else:
            self._committed.pop(peer_id, None)
        if source:
            self._children.setdefault(source, set()).add(peer_id)
            above = self.entries.get(source)
            entry.depth = above.depth + 1 if above is not None else max(entry.depth, 1)
            self._index(source)
        elif role is Role.LEADING:
            entry.depth = 0
        self._index(peer_id)

    def children(self, peer_id: bytes) -> Iterator[Entry]:
        """Who takes the bytes from this node, as far as known."""
        for child in self._children.get(peer_id, ()):
            entry = self.entries.get(child)
            if entry is not None:
                yield entry

    def leads(self) -> Iterator[Entry]:
        """Those that fetch from upstream, alive or not."""
        return (self.entries[peer_id] for peer_id in self._leads)

    def committed(self) -> Iterator[Entry]:
        """Those that have all of it."""
        return (self.entries[peer_id] for peer_id in self._committed)

    def is_fetched(self) -> bool:
        """Whether anybody is known to lead, to follow or to have it."""
        return bool(self._leads or self._committed or self._children)

    def likely_sources(self) -> Iterator[Entry]:
        """For a first join: the latest without children, the shallowest with room, leads and committed ones."""
        peers: Iterable[bytes] = {
            **dict.fromkeys(islice(reversed(self._leaves), _LEAVES_SEEN)),
            **dict.fromkeys(islice(self._open, _OPEN_SEEN)),
            **dict.fromkeys(self._leads),
            **dict.fromkeys(islice(self._committed, _OPEN_SEEN)),
        }
        return (self.entries[peer_id] for peer_id in peers)

    def interval(self, entry: Entry) -> float:
        """Seconds until its next Renew: the more nodes, the rarer, but leads always often."""
        if entry.role is Role.LEADING:
            return self.settings.renew_interval
        source = self.entries.get(entry.source)
        committed = source is not None and source.role is Role.COMMITTED
        shortest = self.settings.committed_renew_interval if committed else self.settings.renew_interval
        return max(shortest, min(len(self.entries) / _REPORTS_AT_ONCE, LONGEST_INTERVAL))

    def is_alive(self, entry: Entry, now: float) -> bool:
        """Whether it was heard of lately. A committed one is taken to be there until somebody says otherwise."""
        if entry.role is Role.COMMITTED:
            return now - entry.heard < self.settings.committed_lifetime
        return now - entry.heard < _ALIVE_INTERVALS * max(entry.interval, self.settings.renew_interval)

    def is_live_lead(self, entry: Entry, now: float, waited: float = 0.0) -> bool:
        """Whether bytes come from upstream through it, or may begin to.

        One that has not grown counts while it is young, and beyond that, as long as it is heard of, for who has
        waited (for `waited` seconds) less than the lapse: it may queue behind downloads of its own node.
        """
        if entry.role is not Role.LEADING or not self.is_alive(entry, now):
            return False
        if entry.grew_at is None or entry.grew_at < entry.granted:
            patience = self.settings.queued_patience if entry.queued else self.settings.lapse
            return min(now - entry.granted, waited) < patience
        return now - entry.grew_at < self.settings.stall_limit(0, entry.pause, outrun=entry.queued)

    def live_leads(self, now: float, waited: float = 0.0) -> list[Entry]:
        """All live leads."""
        return [entry for entry in self.leads() if self.is_live_lead(entry, now, waited)]

    def estimate(self, entry: Entry, now: float) -> int:
        """The bytes that it probably holds now."""
        if entry.role is Role.COMMITTED:
            return self.total or entry.offset
        if entry.grew_at != entry.heard:
            return entry.offset  # it has just said that it does not grow
        since = min(now - entry.heard, 1.5 * entry.interval)
        return entry.offset + int(max(entry.rate, 0.0) * max(since, 0.0))

    def is_queued(self, entry: Entry) -> bool:
        """Whether its bytes are to come through a lead that other downloads of its node keep waiting."""
        for _ in range(len(self.entries)):
            above = self.entries.get(entry.source) if entry.source else None
            if above is None:
                return entry.role is Role.LEADING and entry.queued
            entry = above
        return False

    def is_below(self, entry: Entry, above: bytes) -> bool:
        """Whether `entry` gets its bytes through the node `above`, as far as known."""
        for _ in range(len(self.entries)):
            if entry.source == above:
                return True
            higher = self.entries.get(entry.source) if entry.source else None
            if higher is None:
                return False
            entry = higher
        return True

    def renew_depth(self, entry: Entry) -> int:
        """Its depth, after those above it may have moved."""
        above = self.entries.get(entry.source) if entry.source else None
        if above is not None:
            entry.depth = above.depth + 1
        return entry.depth

    def expire(self, now: float) -> list[bytes]:
        """Drop who was not heard of for too long; return their ids."""
        gone = [entry.peer.id for entry in self.entries.values() if self._is_expired(entry, now)]
        for peer_id in gone:
            self.remove(peer_id)
        return gone

    def _is_expired(self, entry: Entry, now: float) -> bool:
        if entry.role is Role.COMMITTED:
            return not self.is_alive(entry, now)
        return now - entry.heard >= self.settings.entry_lifetime + entry.interval

    def _unlink(self, entry: Entry) -> None:
        siblings = self._children.get(entry.source)
        if siblings is not None:
            siblings.discard(entry.peer.id)
            if not siblings:
                del self._children[entry.source]
            self._index(entry.source)

    def _index(self, peer_id: bytes) -> None:
        """Keep the lists of nodes without children, and of nodes with room, in the order in which they got in."""
        count, known = len(self._children.get(peer_id, ())), peer_id in self.entries
        for index, fits in ((self._leaves, count == 0), (self._open, count < self.settings.fan_out)):
            if known and fits:
                index.setdefault(peer_id)
            else:
                index.pop(peer_id, None)
