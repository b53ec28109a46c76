"""When to tell whom which of the own keys: the sweep. Pure planning; the caller sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

REPUBLISH_INTERVAL: Final = 10 * 60  # seconds; half of records.EXPIRATION_INTERVAL

Closest = Callable[[int], Iterable[bytes]]
"""The view of the network: the ids of the (at most k) closest peers to a position, nearest first."""


@dataclass(frozen=True, slots=True)
class Region:
    """Own keys (32-byte digests) next to each other, so that one lookup at `target` finds the peers of all."""

    target: bytes  # the digest to look up
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One message: tell this peer that we provide these keys."""

    peer_id: bytes
    keys: tuple[bytes, ...]


class Republisher:
    """The own keys and when each was last told. Keys are 32-byte digests."""

    def __init__(self, interval: float = REPUBLISH_INTERVAL) -> None:
        raise NotImplementedError

    def add(self, keys: Iterable[bytes]) -> None:
        """New keys: due at once."""
        raise NotImplementedError

    def remove(self, keys: Iterable[bytes]) -> None:
        """No longer ours; send the withdrawal to `batches(keys, closest)`."""
        raise NotImplementedError

    def due(self, now: float, network_size: int) -> list[Region]:
        """The keys to tell now, in regions. Call it every second or when keys were added."""
        raise NotImplementedError

    def told(self, keys: Iterable[bytes], now: float) -> None:
        """These keys were sent to their peers."""
        raise NotImplementedError

    def joined(self, peer_id: bytes, closest: Closest) -> list[Batch]:
        """A peer is new: what it must be told, because it is now among the closest of these keys."""
        raise NotImplementedError

    def left(self, peer_id: bytes, closest: Closest) -> list[Batch]:
        """A peer left: who takes its place, and what these must be told."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


def batches(keys: Iterable[bytes], closest: Closest) -> list[Batch]:
    """The messages that bring each key to its closest peers, at most own_message.MAX_KEYS keys in each."""
    raise NotImplementedError
