"""Which of several connections to use, to keep and to give up: pure decisions over the host's table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from peili.libp2p.peer_id import PeerId

TRIM_IDLE: Final = 10.0  # seconds without data after which a connection may make room for another


class Candidate(Protocol):
    """What the decisions look at. Times in seconds of one clock."""

    @property
    def peer_id(self) -> PeerId:
        """The peer."""
        ...

    @property
    def outbound(self) -> bool:
        """Whether we dialled."""
        ...

    @property
    def opened(self) -> float:
        """When it was authenticated."""
        ...

    @property
    def last_used(self) -> float:
        """When data came last."""
        ...


C = TypeVar("C", bound=Candidate)


def preferred(connections: Iterable[C], own: PeerId) -> C | None:
    """The one of several connections to one peer that both sides choose.

    It is one that the smaller id dialled, and of those the newest: a peer that dials again has probably lost the
    older one.
    """
    return max(
        connections,
        key=lambda connection: (connection.outbound == (own < connection.peer_id), connection.opened),
        default=None,
    )


def to_trim(connections: Iterable[C], now: float) -> C | None:
    """The connection to close so that a new one has room: the longest unused; None where all are in use."""
    idle = (connection for connection in connections if now - connection.last_used >= TRIM_IDLE)
    return min(idle, key=lambda connection: connection.last_used, default=None)
