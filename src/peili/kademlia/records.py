"""Provider records kept for others, packed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from peili.kademlia.contact import Contact

EXPIRATION_INTERVAL: Final = 20 * 60  # seconds a record lives
ANSWER_PROVIDERS: Final = 20


@dataclass(frozen=True, slots=True)
class RecordStatistics:
    """A snapshot."""

    records: int
    providers: int
    bytes: int  # of the packed records


class ProviderRecords:
    """Who provides what, as others said it. Keys are 32-byte digests (keyspace.key_digest)."""

    def add(self, provider: Contact, keys: Iterable[bytes], now: float, ttl: float = EXPIRATION_INTERVAL) -> int:
        """The provider says it has these keys; returns how many were kept. ttl is cut to EXPIRATION_INTERVAL."""
        raise NotImplementedError

    def get(self, key: bytes, now: float, random: Random, count: int = ANSWER_PROVIDERS) -> list[Contact]:
        """At most `count` random live providers of a key; suspects are left out."""
        raise NotImplementedError

    def withdraw(self, provider_id: bytes, keys: Iterable[bytes]) -> int:
        """These keys are no longer provided by this peer; returns how many records went."""
        raise NotImplementedError

    def goodbye(self, provider_id: bytes) -> None:
        """All records of the peer go, at once for every reader."""
        raise NotImplementedError

    def suspect(self, provider_id: bytes) -> None:
        """Leave this provider out of answers until `heard`, or until it adds a record."""
        raise NotImplementedError

    def heard(self, provider_id: bytes) -> None:
        """The provider is alive."""
        raise NotImplementedError

    def sweep(self, now: float) -> int:
        """Drop expired records in one slice of the memory; call it every second. Returns how many went."""
        raise NotImplementedError

    def statistics(self) -> RecordStatistics:
        """A snapshot."""
        raise NotImplementedError
