"""The routing table: who is near, who was heard of lately, who is suspect."""

from __future__ import annotations

from random import Random
from typing import Final

from peili.kademlia.contact import Contact

K: Final = 20  # peers of a bucket, of an answer, and replicas of a record (kad-dht specification)


class RoutingTable:
    """k-buckets by common prefix length with the own id; `now` is in seconds of the caller's monotonic clock."""

    def __init__(self, own_id: bytes, k: int = K) -> None:
        raise NotImplementedError

    def heard(self, contact: Contact, now: float) -> bool:
        """This peer answered a query: take it in or bring it back. True when it is new in the table."""
        raise NotImplementedError

    def failed(self, peer_id: bytes, now: float) -> None:
        """An attempt failed or was overdue: the peer is suspect, out of answers until it is heard again."""
        raise NotImplementedError

    def remove(self, peer_id: bytes) -> None:
        """The peer said goodbye."""
        raise NotImplementedError

    def is_suspect(self, peer_id: bytes, now: float) -> bool:
        """Whether the last attempt failed lately (also for peers that are not in the table)."""
        raise NotImplementedError

    def closest(self, target: int, count: int = K) -> list[Contact]:
        """The closest peers to a position, nearest first, without suspects."""
        raise NotImplementedError

    def get(self, peer_id: bytes) -> Contact | None:
        """What is known of a peer in the table, suspect or not."""
        raise NotImplementedError

    def peers(self) -> list[Contact]:
        """All peers of the table, without suspects."""
        raise NotImplementedError

    def to_check(self, now: float) -> list[Contact]:
        """Who should be pinged now: suspects with growing pauses, and those not heard of for long."""
        raise NotImplementedError

    def to_refresh(self, now: float, random: Random) -> list[bytes]:
        """Keys (for FIND_NODE) of the buckets that no lookup went through for an interval."""
        raise NotImplementedError

    def looked_up(self, target: int, now: float) -> None:
        """A lookup for this position ended: its bucket is fresh."""
        raise NotImplementedError

    @property
    def sees_everybody(self) -> bool:
        """Whether the network is so small that every peer fits the answer of one node."""
        raise NotImplementedError

    def estimated_size(self) -> int:
        """How many nodes the network has, this one included, judged by how near the nearest are."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
