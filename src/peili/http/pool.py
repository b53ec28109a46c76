"""Which idle connection is used again, and which are closed. Pure: time comes in, connections to close come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from peili.http.limits import ClientLimits
from peili.http.message import SocketAddress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Idle(Generic[T]):
    address: SocketAddress
    connection: T
    since: float


class IdlePool(Generic[T]):
    """Idle connections by address, oldest first. What it hands out it forgets."""

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._idle: list[_Idle[T]] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, address: SocketAddress) -> T | None:
        """The connection to this address that was used last, or None. Call `expire` first."""
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].address == address:
                return self._idle.pop(index).connection
        return None

    def put(self, address: SocketAddress, connection: T, now: float) -> list[T]:
        """Keep a connection; return those that are over a bound now, for the caller to close."""
        self._idle.append(_Idle(address, connection, now))
        same = [idle for idle in self._idle if idle.address == address]
        over = same[: max(0, len(same) - self._limits.idle_connections_per_address)]
        over = over or self._idle[: max(0, len(self._idle) - self._limits.idle_connections)]
        return self._remove(over)

    def expire(self, now: float) -> list[T]:
        """The connections that were idle for too long, for the caller to close."""
        return self._remove([idle for idle in self._idle if now - idle.since >= self._limits.idle_timeout])

    def forget(self, address: SocketAddress) -> list[T]:
        """All connections to this address, for the caller to close."""
        return self._remove([idle for idle in self._idle if idle.address == address])

    def clear(self) -> list[T]:
        """All connections, for the caller to close."""
        return self._remove(list(self._idle))

    def _remove(self, unwanted: list[_Idle[T]]) -> list[T]:
        if unwanted:
            gone = set(map(id, unwanted))
            self._idle = [idle for idle in self._idle if id(idle) not in gone]
        return [idle.connection for idle in unwanted]
