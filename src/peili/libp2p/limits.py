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
    inbound_streams: int = 1024  # over all connections
    unread_bytes: int = 16 * 1024 * 1024  # of all peers; then the connection with the most of them is closed


class Admission:
    """Counts inbound connections: those in their handshake, and all by IP address."""

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._unauthenticated = 0
        self._addresses: Counter[str] = Counter()

    def arrive(self, address: str) -> bool:
        """Whether a connection from this address may begin its handshake; `leave` follows when it ends."""
        if self._unauthenticated >= self._limits.unauthenticated:
            return False
        if self._addresses[address] >= self._limits.connections_per_address:
            return False
        self._unauthenticated += 1
        self._addresses[address] += 1
        return True

    def finish_handshake(self) -> None:
        """A handshake ended, well or badly."""
        self._unauthenticated -= 1

    def leave(self, address: str) -> None:
        """A connection that had arrived is gone."""
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
