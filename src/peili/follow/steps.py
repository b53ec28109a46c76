"""What one pull through the peers is to do next: SourceChoice says it, the caller does it."""

from __future__ import annotations

from dataclasses import dataclass

from peili.follow.message import Join, Renew, Source


@dataclass(frozen=True, slots=True)
class Take:
    """Ask this source for the bytes from our offset, leaving the present one where there is one.

    `unnamed`: not the coordinators named it. It is not to serve us if it serves others: then they are to say who
    takes it from whom.
    """

    source: Source
    unnamed: bool = False


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
    """FIN where a body is under way, else 404, and 404 for the retry. `leading`: the coordinator told us to.

    `unprovided`: as in its Lead.
    """

    leading: bool
    reason: str
    unprovided: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing to do before this time, unless something happens."""

    until: float


Step = Take | JoinNow | RenewNow | GoUpstream | Stay
