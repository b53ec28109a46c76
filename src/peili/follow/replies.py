"""Whose answer counts: the closest coordinator's, or the next one's where that is silent. Pure.

Routing asks by these rules, and so does the simulation. All coordinators of a digest keep its table, each by
itself, so two of them may disagree: the closer one counts wherever it can be had in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from peili.follow.deputy import SOLE
from peili.follow.message import Answer, Ask, Follow, Join, Lead, Purpose, Renew

COORDINATORS: Final = 2  # of one digest
CANDIDATES: Final = 2 * COORDINATORS  # that are remembered: the next ones take over where both are silent
PATIENCE: Final = 0.020  # seconds that the closer coordinator may be behind the other
# The same where the other one says Lead: the closer one may have told somebody else to, and then two would.
LEAD_PATIENCE: Final = 0.2
# Who says Lead has waited already where nobody else wants it (deputy.py).
SOLE_PATIENCE: Final = 0.005
ASK_TIMEOUT: Final = 0.3  # seconds; with both silent the node goes on by itself
STAND_IN_AFTER: Final = 0.015  # seconds without a word of both until the next node is asked, the stand-in
SILENT_TIME: Final = 3.0  # seconds for which a coordinator that did not answer in time is not waited for
# But for a Lead: until it has been silent for so many seconds in all, and beyond that a moment each time.
FROZEN_TIME: Final = 0.55
SILENT_LEAD_PATIENCE: Final = 0.04


class Silences:
    """The coordinators that did not answer this node in time, lately. Times in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._silent: dict[bytes, tuple[float, float]] = {}  # since when, and until when that counts

    def timed_out(self, peer_id: bytes, now: float) -> bool:
        """It did not answer within ASK_TIMEOUT; return whether that is new."""
        known = self.has(peer_id, now)
        since = self._silent[peer_id][0] if known else now - ASK_TIMEOUT
        self._silent[peer_id] = (since, now + SILENT_TIME)
        return not known

    def failed(self, peer_id: bytes, now: float) -> None:
        """It cannot be reached: it is gone, as far as this node can see."""
        self._silent[peer_id] = (now - FROZEN_TIME, now + SILENT_TIME)

    def heard(self, peer_id: bytes) -> None:
        """It answered."""
        self._silent.pop(peer_id, None)

    def has(self, peer_id: bytes, now: float) -> bool:
        """Whether it is not waited for."""
        return peer_id in self._silent and now < self._silent[peer_id][1]

    def expire(self, now: float) -> None:
        """Forget what counts no more; call it every second or so."""
        self._silent = {peer_id: times for peer_id, times in self._silent.items() if now < times[1]}

    def places(self, coordinators: Sequence[bytes], now: float) -> dict[int, float]:
        """The places of those that are silent, each with the seconds for which a Lead waits for it: see `judge`."""
        return {
            place: max(self._silent[peer_id][0] + FROZEN_TIME - now, SILENT_LEAD_PATIENCE)
            for place, peer_id in enumerate(coordinators)
            if self.has(peer_id, now)
        }


class StandIn:
    """The next candidate, asked to make sure that nobody else fetches what both coordinators are silent about.

    It has said Lead to the first one that asked it, which says nothing yet: of a herd each asks it a moment later.
    Who is still the only one after SOLE seconds leads. Whoever leads and has renewed told the stand-in, too.
    """

    __slots__ = ("_due",)

    def __init__(self, ask: Ask, count: int) -> None:
        """`count`: how many were asked at the start; more than COORDINATORS where the stand-in is among them."""
        self._due: list[float] = []  # seconds after the question
        if isinstance(ask, Join) and ask.purpose is Purpose.FIRST:
            begun = count > COORDINATORS
            self._due = [SOLE] if begun else [STAND_IN_AFTER, STAND_IN_AFTER + SOLE]

    def next_at(self, replies: Mapping[int, Answer | None]) -> float:
        """When to ask it next, in seconds after the question; math.inf where it need not be asked."""
        return self._due[0] if self._due and _are_silent(replies) else math.inf

    def asked(self) -> bool:
        """It is asked now; return whether its answer decides."""
        self._due.pop(0)
        return not self._due

    @staticmethod
    def is_told(ask: Ask) -> bool:
        """Whether it is to hear of this as well, as the coordinators do: somebody leads."""
        return isinstance(ask, Renew) and not ask.source


@dataclass(frozen=True, slots=True)
class Counts:
    """This answer counts; None: no coordinator gave one."""

    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for the next reply, until so many seconds after the question; then judge again."""

    until: float


def judge(
    replies: Mapping[int, Answer | None],
    count: int,
    elapsed: float,
    silent: Mapping[int, float],
    stand_in: Answer | None = None,
) -> Counts | Listen:
    """What the replies so far mean, `elapsed` seconds after `count` coordinators were asked.

    `replies`: by the coordinator's place, 0 for the closest; None where it failed. `silent`: the places of those
    that did not answer lately. They are not waited for beside one that does, but where that one says Lead: then
    for so many seconds. `stand_in`: what it said at last; it counts where both coordinators are silent.
    """
    if isinstance(stand_in, Lead) and stand_in.sole and _are_silent(replies):
        return Counts(replace(stand_in, unprovided=False))
    best = min((place for place, answer in replies.items() if answer is not None), default=None)
    if best is None:
        over = len(replies) >= count or elapsed >= ASK_TIMEOUT
        return Counts(None) if over else Listen(ASK_TIMEOUT)
    answer = replies[best]
    if isinstance(answer, Lead):
        return _judge_lead(answer, best, replies, count, elapsed, silent)
    closer = (place for place in range(best) if place not in replies)
    patience = PATIENCE if any(place not in silent for place in closer) else 0.0
    return Counts(answer) if elapsed >= patience else Listen(patience)


def _are_silent(replies: Mapping[int, Answer | None]) -> bool:
    """Whether both coordinators have said nothing so far, or failed."""
    return all(replies.get(place) is None for place in range(COORDINATORS))


def _judge_lead(
    lead: Lead,
    place: int,
    replies: Mapping[int, Answer | None],
    count: int,
    elapsed: float,
    silent: Mapping[int, float],
) -> Counts | Listen:
    """A second lead is a second download: all that may know of another one are heard, and one that does counts."""
    for other in sorted(replies):
        if isinstance(follow := replies[other], Follow):
            return Counts(follow)
    missing = [each for each in range(count) if each not in replies]
    if lead.sole and place < COORDINATORS:
        patience = SOLE_PATIENCE if 0 in missing and place else 0.0
    else:
        patience = max((silent.get(each, LEAD_PATIENCE) for each in missing if each < place), default=0.0)
    if any(each not in silent for each in missing if each > place):
        patience = max(patience, PATIENCE)
    if elapsed < patience:
        return Listen(patience)
    # Who has it is known to the closest ones, all of which have spoken; who says Wait leaves it to the other.
    heard = replies.values()
    unprovided = lead.unprovided and len(replies) >= count and None not in heard
    unprovided = unprovided and all(each.unprovided for each in heard if isinstance(each, Lead))
    return Counts(replace(lead, unprovided=unprovided))
