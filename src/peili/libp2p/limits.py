"""What one host takes on, and the books that it keeps of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Beyond these, new work is refused and old work goes on."""

    connections: int = 192  # authenticated, in both directions
    connections_per_address: int = 32  # inbound, from one IP address
    unauthenticated: int = 64  # inbound, in their handshake
    unauthenticated_per_address: int = 16  # of those, from one IP address: a few cannot keep everybody out
    inbound_streams: int = 1024  # over all connections
    unread_bytes: int = 16 * 1024 * 1024  # of all peers; then the connection with the most of them is closed


class Admission:
    """Counts inbound connections: those in their handshake, and all by IP address."""

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._unauthenticated: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    def arrive(self, address: str) -> bool:
        """Whether a connection from this address may begin its handshake; `leave` follows when it ends."""
        if self._unauthenticated.total() >= self._limits.unauthenticated:
            return False
        if self._unauthenticated[address] >= self._limits.unauthenticated_per_address:
            return False
        if self._addresses[address] >= self._limits.connections_per_address:
            return False
        self._unauthenticated[address] += 1
        self._addresses[address] += 1
        return True

    def finish_handshake(self, address: str) -> None:
        """A handshake ended, well or badly."""
        _one_less(self._unauthenticated, address)

    def leave(self, address: str) -> None:
        """A connection that had arrived is gone."""
        _one_less(self._addresses, address)


def _one_less(counts: Counter[str], address: str) -> None:
    counts[address] -= 1
    if not counts[address]:
        del counts[address]
