"""Whose answer counts: the closest coordinator's, or the next one's where that is silent. Pure.

Routing asks by these rules, and so does the simulation. All coordinators of a digest keep its table, each by
itself, so two of them may disagree: the closer one counts wherever it can be had in time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from peili.follow.message import Answer, Lead

COORDINATORS: Final = 2  # of one digest
CANDIDATES: Final = 2 * COORDINATORS  # that are remembered: the next ones take over where both are silent
PATIENCE: Final = 0.020  # seconds that the closer coordinator may be behind the other
# The same where the other one says Lead: the closer one may have told somebody else to, and then two would.
LEAD_PATIENCE: Final = 0.2
ASK_TIMEOUT: Final = 0.3  # seconds; with both silent the node goes on by itself
SILENT_TIME: Final = 3.0  # seconds for which a coordinator that did not answer in time is not waited for


@dataclass(frozen=True, slots=True)
class Counts:
    """This answer counts; None: no coordinator gave one."""

    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for the next reply, until so many seconds after the question; then judge again."""

    until: float


def judge(
    replies: Mapping[int, Answer | None], count: int, elapsed: float, silent: Collection[int] = ()
) -> Counts | Listen:
    """What the replies so far mean, `elapsed` seconds after `count` coordinators were asked.

    `replies`: by the coordinator's place, 0 for the closest; None where it failed. `silent`: the places of those
    that did not answer lately; they are not waited for beside one that does.
    """
    best = min((place for place, answer in replies.items() if answer is not None), default=None)
    if best is None:
        over = len(replies) >= count or elapsed >= ASK_TIMEOUT
        return Counts(None) if over else Listen(ASK_TIMEOUT)
    answer = replies[best]
    if all(place in replies or place in silent for place in range(best)):
        return Counts(answer)
    patience = LEAD_PATIENCE if isinstance(answer, Lead) else PATIENCE
    return Counts(answer) if elapsed >= patience else Listen(patience)
