"""The routing table: who is near, who was heard of lately, who is suspect (kad-dht specification, Routing Table).

A peer comes in when it has answered a query, not when somebody names it. It leaves when it says goodbye, when its
place is wanted while it is suspect, or when it stayed silent for MAX_FAILURES attempts.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import Final

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import (
    MAX_SEARCHED_PREFIX,
    POSITION_BITS,
    common_prefix_length,
    key_with_prefix,
    position,
)
from peili.kademlia.suspects import Suspects

K: Final = 20  # peers of a bucket, of an answer, and replicas of a record (kad-dht specification)
REFRESH_INTERVAL: Final = 10 * 60.0  # seconds, as Go's
CHECK_INTERVAL: Final = 60.0  # seconds of silence after which a peer is asked whether it lives
MAX_CHECKS: Final = 16  # peers of one to_check
MAX_FAILURES: Final = 12  # in a row, about ten minutes, then the peer is forgotten; bootstrap finds it again


class _Entry:
    """One peer of a bucket or of its replacement cache."""

    __slots__ = ("checked", "contact", "position", "seen")

    def __init__(self, contact: Contact, where: int, now: float) -> None:
        self.contact = contact
        self.position = where
        self.seen = now  # when it answered last
        self.checked = now  # when to_check named it last


class _Bucket:
    """Both dicts are ordered by when their peers were heard, the latest last."""

    __slots__ = ("members", "refreshed", "waiting")

    def __init__(self) -> None:
        self.members: dict[bytes, _Entry] = {}
        self.waiting: dict[bytes, _Entry] = {}
        self.refreshed = -inf


class RoutingTable:
    """k-buckets by common prefix length with the own id; `now` is in seconds of the caller's monotonic clock."""

    def __init__(self, own_id: bytes, k: int = K) -> None:
        self._own_id = own_id
        self._own = position(own_id)
        self._k = k
        self._buckets: dict[int, _Bucket] = {}  # only those that had a peer; at most 257
        self._neighbourhood = _Bucket()  # never has peers, only a time of refresh
        self._suspects = Suspects()
        self._count = 0
        self._cache: dict[int, _Entry] | None = None

    def heard(self, contact: Contact, now: float) -> bool:
        """This peer answered a query: take it in or bring it back. True when it is new in the table."""
        if contact.id == self._own_id:
            return False
        if contact.id in self._suspects:
            self._suspects.clear(contact.id)
            self._cache = None
        where = position(contact.id)
        bucket = self._buckets.setdefault(common_prefix_length(self._own, where), _Bucket())
        known = bucket.members.pop(contact.id, None)
        if known is not None:
            known.contact, known.seen, known.checked = _merged(known.contact, contact), now, now
            bucket.members[contact.id] = known
            return False
        return self._take_in(bucket, _Entry(contact, where, now))

    def _take_in(self, bucket: _Bucket, entry: _Entry) -> bool:
        """Into the bucket while it has room or a suspect, else into its replacement cache (bounded by k)."""
        peer_id = entry.contact.id
        bucket.waiting.pop(peer_id, None)
        if len(bucket.members) >= self._k:
            suspect = next((other for other in bucket.members if other in self._suspects), None)
            if suspect is None:
                bucket.waiting[peer_id] = entry
                if len(bucket.waiting) > self._k:
                    del bucket.waiting[next(iter(bucket.waiting))]
                return False
            del bucket.members[suspect]
            self._count -= 1
        self._cache = None
        bucket.members[peer_id] = entry
        self._count += 1
        return True

    def wants(self, peer_id: bytes) -> bool:
        """Whether a peer that asked us something should be asked back (FIND_NODE or PING), to be taken in.

        True for strangers with a place to fill, and for suspects, which are alive after all.
        """
        if peer_id == self._own_id:
            return False
        bucket = self._bucket_of(peer_id)
        if bucket is None or peer_id in bucket.members:
            return bucket is None or peer_id in self._suspects
        return len(bucket.members) < self._k or any(member in self._suspects for member in bucket.members)

    def failed(self, peer_id: bytes, now: float) -> None:
        """An attempt failed or was overdue: the peer is suspect, out of answers until it is heard again.

        Its place goes to the freshest peer that waits for one; without such, it keeps it, for when every attempt
        fails it is more likely that this node is cut off than that all others died.
        """
        failures = self._suspects.mark(peer_id, now)
        self._cache = None
        bucket = self._bucket_of(peer_id)
        if bucket is None:
            return
        bucket.waiting.pop(peer_id, None)
        if peer_id in bucket.members and (bucket.waiting or failures >= MAX_FAILURES):
            self._leave(bucket, peer_id)

    def remove(self, peer_id: bytes) -> None:
        """The peer said goodbye."""
        bucket = self._bucket_of(peer_id)
        if bucket is None:
            return
        bucket.waiting.pop(peer_id, None)
        if peer_id in bucket.members:
            self._leave(bucket, peer_id)

    def _leave(self, bucket: _Bucket, peer_id: bytes) -> None:
        del bucket.members[peer_id]
        self._count -= 1
        self._cache = None
        if bucket.waiting:
            replacement, entry = bucket.waiting.popitem()
            bucket.members[replacement] = entry
            self._count += 1

    def _bucket_of(self, peer_id: bytes) -> _Bucket | None:
        return self._buckets.get(common_prefix_length(self._own, position(peer_id)))

    def is_suspect(self, peer_id: bytes, now: float) -> bool:
        """Whether the last attempt failed lately (also for peers that are not in the table)."""
        return self._suspects.recent(peer_id, now)

    def failed_last(self, peer_id: bytes) -> bool:
        """Whether the last attempt failed, however long ago: when it is heard again, it is back."""
        return peer_id in self._suspects

    def not_asked(self, peer_id: bytes, now: float) -> None:
        """An attempt could not be made: a suspect is to be tried again soon."""
        self._suspects.postpone(peer_id, now)

    def _living(self) -> dict[int, _Entry]:
        """Members that are not suspect, by position; kept until such change, for every answer needs it."""
        if self._cache is None:
            members = (pair for bucket in self._buckets.values() for pair in bucket.members.items())
            self._cache = {entry.position: entry for peer, entry in members if peer not in self._suspects}
        return self._cache

    def closest(self, target: int, count: int = K) -> list[Contact]:
        """The closest peers to a position, nearest first, without suspects."""
        living = self._living()
        return [living[where].contact for where in sorted(living, key=target.__xor__)[:count]]

    def seeds(self, target: int, count: int = K) -> list[Contact]:
        """Where a lookup starts: the closest, then, where they are fewer than `count`, the closest suspects."""
        found = self.closest(target, count)
        if len(found) < count:
            every = (entry for bucket in self._buckets.values() for entry in bucket.members.values())
            doubtful = [entry for entry in every if entry.contact.id in self._suspects]
            doubtful.sort(key=lambda entry: entry.position ^ target)
            found += [entry.contact for entry in doubtful[: count - len(found)]]
        return found

    def get(self, peer_id: bytes) -> Contact | None:
        """What is known of a peer in the table, suspect or not."""
        bucket = self._bucket_of(peer_id)
        entry = bucket.members.get(peer_id) if bucket else None
        return entry.contact if entry else None

    def peers(self) -> list[Contact]:
        """All peers of the table, without suspects."""
        return [entry.contact for entry in self._living().values()]

    def to_check(self, now: float) -> list[Contact]:
        """Who should be pinged now: suspects with growing pauses, and those not heard of for CHECK_INTERVAL.

        Answer each with `heard`, `failed` or `not_asked`. At most MAX_CHECKS, the longest silent of a bucket first.
        """
        due: list[Contact] = []
        for bucket in self._buckets.values():
            for peer_id, entry in bucket.members.items():
                if len(due) >= MAX_CHECKS:
                    return due
                if peer_id in self._suspects:
                    wanted = self._suspects.due(peer_id, now)
                else:
                    wanted = now >= max(entry.seen, entry.checked) + CHECK_INTERVAL
                if wanted:
                    entry.checked = now
                    due.append(entry.contact)
        return due

    def to_refresh(self, now: float, random: Random) -> list[bytes]:
        """Keys (for FIND_NODE) of the buckets that no lookup went through for REFRESH_INTERVAL.

        From the farthest bucket to the neighbourhood, the k nearest, which one lookup of the own id refreshes
        (any bytes are a key for FIND_NODE). Empty while the table is empty: bootstrap comes first.
        """
        beyond, shared, keys = self._count, 0, list[bytes]()
        while beyond > self._k and shared <= MAX_SEARCHED_PREFIX:
            bucket = self._buckets.setdefault(shared, _Bucket())
            if self._is_due(bucket, now):
                keys.append(key_with_prefix(self._own, shared, random))
            beyond -= len(bucket.members)
            shared += 1
        if self._count and self._is_due(self._neighbourhood, now):
            keys.append(self._own_id)
        return keys

    @staticmethod
    def _is_due(bucket: _Bucket, now: float) -> bool:
        if now < bucket.refreshed + REFRESH_INTERVAL:
            return False
        bucket.refreshed = now
        return True

    def looked_up(self, target: int, now: float) -> None:
        """A lookup for this position ended: its bucket is fresh."""
        bucket = self._buckets.get(common_prefix_length(self._own, target))
        if target == self._own:
            self._neighbourhood.refreshed = now
        elif bucket is not None:
            bucket.refreshed = now

    @property
    def sees_everybody(self) -> bool:
        """Whether the network is so small that every peer is in this table, and every record at every node.

        Not before a lookup of the own id ended: a node that just joined knows few peers of many.
        """
        if self._neighbourhood.refreshed == -inf or self._count > self._k:
            return False
        return not any(bucket.waiting for bucket in self._buckets.values())

    def estimated_size(self) -> int:
        """How many nodes the network has, this one included.

        The i-th nearest of N evenly spread peers is about i / N of the space away: the nearest k give k guesses at
        N, and the median is taken, since one near neighbour says little.
        """
        if self._count < self._k:
            return self._count + 1
        ranks = sorted(map(self._own.__xor__, self._living()))[: self._k]
        ratios = sorted((rank << POSITION_BITS) // max(far, 1) for rank, far in enumerate(ranks, start=1))
        return max(ratios[len(ratios) // 2], self._count) + 1 if ratios else 1

    def __len__(self) -> int:
        return self._count


def _merged(old: Contact, new: Contact) -> Contact:
    """The newer word counts, but one that leaves something out does not delete it."""
    return Contact(
        new.id,
        new.addresses or old.addresses,
        new.registry_port or old.registry_port,
        new.zone or old.zone,
    )
