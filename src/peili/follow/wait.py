"""Manifests, indexes and configs: everybody but the leader waits a little for the leader's commit. Pure.

Registries limit the rate of manifest requests, and a small blob has no growth worth following.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peili.follow.message import Answer, Follow, Keep, Lead, Source, Wait

POLL: Final = 0.020  # seconds between two joins of one wait, where the coordinator does not say


@dataclass(frozen=True, slots=True)
class TakeFrom:
    """Fetch it from one of these committed sources now, best first."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Join again at this time."""

    at: float


@dataclass(frozen=True, slots=True)
class GoUpstream:
    """Answer 404. `leading`: the coordinator counts on us."""

    leading: bool


def next_step(answer: Answer, now: float, *, started: float, limit: float) -> TakeFrom | AskAgain | GoUpstream:
    """What a small blob's request does after the coordinator answered. `limit`: seconds in all since `started`."""
    match answer:
        case Lead():
            return GoUpstream(leading=True)
        case Follow(sources) if committed := tuple(source for source in sources if source.committed):
            return TakeFrom(committed)
        case Follow():
            pause = POLL
        case Wait(milliseconds):
            pause = milliseconds / 1000
        case Keep():
            pause = POLL
    left = started + limit - now
    return AskAgain(now + min(pause, left)) if left > 0 else GoUpstream(leading=False)
