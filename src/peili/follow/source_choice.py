"""One pull through the peers, seen from the node that pulls: which source next, when to ask again, when to give up.

The caller does the I/O: it joins, asks sources, relays, renews; tells this what happened; and does what `next_step`
says. Pure; times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from peili.follow.message import Answer, Join, Renew, Source
from peili.follow.settings import FollowSettings


class SourceFailure(Enum):
    """How a source failed this pull."""

    BUSY = auto()  # 503: its fan-out; nothing is wrong with it
    BEHIND = auto()  # 503: it does not hold more than we do
    ENDED = auto()  # FIN or reset in the middle, or before the first byte
    STALLED = auto()
    BROKEN = auto()  # refused, timed out, another size or digest


@dataclass(frozen=True, slots=True)
class Take:
    """Ask this source for the bytes from our offset, leaving the present one where there is one."""

    source: Source


@dataclass(frozen=True, slots=True)
class JoinNow:
    """Send this to both coordinators."""

    join: Join


@dataclass(frozen=True, slots=True)
class RenewNow:
    """Send this to both coordinators; go on meanwhile."""

    renew: Renew


@dataclass(frozen=True, slots=True)
class GoUpstream:
    """FIN where a body is under way, else 404, and 404 for the retry. `leading`: the coordinator told us to."""

    leading: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing to do before this time, unless something happens."""

    until: float


Step = Take | JoinNow | RenewNow | GoUpstream | Stay


class SourceChoice:
    """The state of one pull of one digest, for one held response."""

    def __init__(
        self,
        settings: FollowSettings,
        key: bytes,
        now: float,
        *,
        offset: int = 0,
        total: int = 0,
        burden: int = 0,
        port: int = 0,
        zone: str = "",
        banned: frozenset[bytes] = frozenset(),
        verified_only: bool = False,
    ) -> None: ...

    @property
    def source(self) -> Source | None:
        """Whom we take from now."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """Hops from upstream."""
        raise NotImplementedError

    def answered(self, answer: Answer | None, now: float) -> None:
        """The coordinators answered the last JoinNow or RenewNow; None: both were silent."""

    def taken(self, source: Source, now: float) -> None:
        """The source that Take named answered with its head, and is relayed from now on."""

    def grew(self, offset: int, now: float) -> None:
        """Our containerd has this many bytes of the digest now."""

    def failed(self, peer_id: bytes, failure: SourceFailure, now: float) -> None:
        """The source failed, before or in the middle."""

    def next_step(self, now: float) -> Step:
        """What to do now."""
        raise NotImplementedError
