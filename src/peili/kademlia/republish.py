"""When to tell whom which of the own keys: the sweep. Pure planning; the caller looks up and sends.

Keys are kept in the order of their positions, and each has its moment in the interval by its position: so the work
is spread evenly, neighbours in the key space fall due together, and since they have nearly the same closest peers,
one lookup and one message to each of these serve many keys.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, inf, log2
from typing import Final

from peili.kademlia.keyspace import DIGEST_LENGTH, POSITION_BITS, digest_position, position
from peili.kademlia.own_message import MAX_KEYS
from peili.kademlia.table import K

REPUBLISH_INTERVAL: Final = 10 * 60.0  # seconds; half of records.EXPIRATION_INTERVAL
RETRY_INTERVAL: Final = 30.0  # seconds until keys that were due but not told are due again
KEYS_OF_SLICE: Final = 250  # the interval is cut into slices of about so many keys,
MAX_SLICES: Final = 60  # at most so many
_FEW: Final = 64  # keys that are put in or taken out one by one
_CHECKED_AT_ONCE: Final = 500  # keys compared before a planner that takes long gives way
_SPACE: Final = 1 << POSITION_BITS

Closest = Callable[[int], list[bytes]]
"""The view of the network: the ids of the (at most k) closest peers to a position, nearest first (View.closest)."""
Holders = Callable[[int], Collection[bytes]]
"""The same in any order (View.holders)."""


@dataclass(frozen=True, slots=True)
class Region:
    """Own keys (32-byte digests) next to each other, at most MAX_KEYS: a lookup for one finds the peers of all."""

    target: bytes  # the digest to look up, one of the keys
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One message: tell this peer that we provide (or withdraw) these keys, at most MAX_KEYS."""

    peer_id: bytes
    keys: tuple[bytes, ...]


class Republisher:
    """The own keys and when each is to be told next. Keys are 32-byte digests; 120 bytes of memory each."""

    def __init__(self, interval: float = REPUBLISH_INTERVAL, k: int = K) -> None:
        self._interval = interval
        self._k = k
        self._entries: list[bytes] = []  # position (32 bytes) + digest (32), sorted
        self._next: array[float] = array("d")  # when each is due
        self._earliest = inf

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return self._index(key) is not None

    def _index(self, key: bytes) -> int | None:
        entry = _entry(key)
        at = bisect_left(self._entries, entry)
        return at if at < len(self._entries) and self._entries[at] == entry else None

    # Which keys there are

    def add(self, keys: Iterable[bytes]) -> None:
        """New keys: due at once. Those that are known keep their time. Raise ValueError for another length."""
        new = {_entry(key) for key in keys}
        if len(new) > _FEW:
            known = dict(zip(self._entries, self._next, strict=True))
            self._set({**dict.fromkeys(new, -inf), **known})
            return
        for entry in new:
            at = bisect_left(self._entries, entry)
            if self._entries[at : at + 1] != [entry]:
                self._entries.insert(at, entry)
                self._next.insert(at, -inf)
                self._earliest = -inf

    def remove(self, keys: Iterable[bytes]) -> None:
        """No longer ours; send the withdrawal to `batches(keys, holders)`."""
        gone = {_entry(key) for key in keys}
        if len(gone) > _FEW:
            times = zip(self._entries, self._next, strict=True)
            self._set({entry: time for entry, time in times if entry not in gone})
            return
        for entry in gone:
            at = bisect_left(self._entries, entry)
            if self._entries[at : at + 1] == [entry]:
                del self._entries[at], self._next[at]

    def _set(self, times: dict[bytes, float]) -> None:
        self._entries = sorted(times)
        self._next = array("d", (times[entry] for entry in self._entries))
        self._earliest = min(self._next, default=inf)

    # When they are due

    def due(self, now: float, network_size: int) -> list[Region]:
        """The keys to tell now, in regions by `RoutingTable.estimated_size()`.

        Call it every second, and after `add`. For each region find the peers (a lookup, or the whole table where it
        sees everybody), send `batches`, and report `told`; else they are due again after RETRY_INTERVAL.
        """
        if now < self._earliest:
            return []
        numbers = [number for number, time in enumerate(self._next) if time <= now]
        for number in numbers:
            self._next[number] = now + RETRY_INTERVAL
        self._earliest = min(self._next, default=inf)
        return self._regions(numbers, network_size)

    def _regions(self, numbers: list[int], network_size: int) -> list[Region]:
        """Cut by the prefix that about k of the network's nodes share."""
        shift = POSITION_BITS - max(0, ceil(log2(max(network_size, 1) / self._k)))
        by_prefix: defaultdict[int, list[bytes]] = defaultdict(list)
        for number in numbers:
            entry = self._entries[number]
            by_prefix[_where(entry) >> shift].append(entry[DIGEST_LENGTH:])
        chunks = [chunk for keys in by_prefix.values() for chunk in _chunks(keys)]
        return [Region(chunk[len(chunk) // 2], chunk) for chunk in chunks]

    def told(self, keys: Iterable[bytes], now: float) -> None:
        """These keys were sent to their peers: due again at their moment, 0.5 to 1.5 intervals later."""
        slices = max(1, min(len(self._entries) // KEYS_OF_SLICE, MAX_SLICES))
        for key in keys:
            at = self._index(key)
            if at is not None:
                where = _where(self._entries[at])
                moment = (where * slices // _SPACE + 1) / slices * self._interval
                soonest = now + self._interval / 2
                self._next[at] = moment + ceil((soonest - moment) / self._interval) * self._interval
        self._earliest = min(self._next, default=inf)

    # When the network changes

    def joined(self, peer_id: bytes, holders: Holders) -> Iterator[Batch]:
        """A peer is new in the view: what it must be told, because it is among the closest of these keys.

        The keys are compared as the batches are taken, some 500 at a time: give way to others between them. A batch
        is empty where none of the keys compared meanwhile concerns the peer.
        """
        return self._near(peer_id, lambda where: peer_id if peer_id in holders(where) else None)

    def left(self, peer_id: bytes, closest: Closest) -> Iterator[Batch]:
        """A peer is no longer in the view: who takes its place, and what these must be told. Lazy as `joined`."""
        gone = position(peer_id)

        def replacement(where: int) -> bytes | None:
            nearest = closest(where)
            if len(nearest) < self._k or position(nearest[-1]) ^ where < gone ^ where:
                return None
            return nearest[-1]

        return self._near(peer_id, replacement)

    def _near(self, peer_id: bytes, choose: Callable[[int], bytes | None]) -> Iterator[Batch]:
        """Ask `choose` for the keys near a peer, in growing subtrees, until one has none that concerns it."""
        where = position(peer_id)
        low = high = bisect_left(self._entries, where.to_bytes(DIGEST_LENGTH, "big"))
        while low > 0 or high < len(self._entries):
            beside = self._entries[max(low - 1, 0) : low] + self._entries[high : high + 1]
            bits = min((_where(entry) ^ where).bit_length() for entry in beside)
            start, end = self._subtree(where, bits)
            ring = self._entries[start:low] + self._entries[high:end]
            low, high = start, end
            found = 0
            for chunk in _chunks(ring, _CHECKED_AT_ONCE):
                chosen: defaultdict[bytes, list[bytes]] = defaultdict(list)
                for entry in chunk:
                    peer = choose(_where(entry))
                    if peer is not None:
                        chosen[peer].append(entry[DIGEST_LENGTH:])
                if not chosen:
                    yield Batch(peer_id, ())
                for peer, keys in chosen.items():
                    found += len(keys)
                    yield Batch(peer, tuple(keys))
            if len(ring) >= self._k and not found:
                return

    def _subtree(self, where: int, bits: int) -> tuple[int, int]:
        """The range of entries that share all but the last `bits` bits with a position."""
        first = where >> bits << bits
        last = first + (1 << bits)
        start = bisect_left(self._entries, first.to_bytes(DIGEST_LENGTH, "big"))
        if last >= _SPACE:
            return start, len(self._entries)
        return start, bisect_left(self._entries, last.to_bytes(DIGEST_LENGTH, "big"))


def batches(keys: Iterable[bytes], holders: Holders) -> list[Batch]:
    """The messages that bring each key to its closest peers, at most MAX_KEYS keys in each."""
    by_peer: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for key in keys:
        for peer_id in holders(digest_position(key)):
            by_peer[peer_id].append(key)
    return [Batch(peer_id, chunk) for peer_id, told in by_peer.items() for chunk in _chunks(told)]


def _entry(key: bytes) -> bytes:
    if len(key) != DIGEST_LENGTH:
        raise ValueError(f"a key is a digest of {DIGEST_LENGTH} bytes, not {len(key)}")
    return digest_position(key).to_bytes(DIGEST_LENGTH, "big") + key


def _where(entry: bytes) -> int:
    return int.from_bytes(entry[:DIGEST_LENGTH], "big")


def _chunks(keys: list[bytes], size: int = MAX_KEYS) -> Iterator[tuple[bytes, ...]]:
    return (tuple(keys[at : at + size]) for at in range(0, len(keys), size))
