"""Which provider is asked when: the decisions of one race, without I/O and without a clock.

The story of a race: providers are found one after another; the best is asked; when it is slow for its own history,
a second one is asked beside it; when one fails, the next; the first good answer ends it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from peili.mirror.history import History
from peili.routing.protocol import Provider

# A provider that failed lately is asked first only when no better one is named within this time, in seconds.
PATIENCE = 0.020
NO_ROOM = "no_room"  # why a race ends that found this node's memory for whole bodies full


@dataclass(frozen=True, slots=True)
class RaceLimits:
    """Bounds of one race. `resolve_timeout`: seconds for the first provider to be found.

    `busy`: providers without a free upload that do not count as attempts, for they answer at once.
    """

    resolve_timeout: float
    attempts: int = 6
    busy: int = 20
    at_once: int = 3


@dataclass(frozen=True, slots=True)
class Start:
    """Ask this provider now; `hedge` when others are still being asked."""

    provider: Provider
    hedge: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this time, unless something happens. Infinite where only an event can help."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody has it; the reason is for logs and metrics."""

    reason: str


Step = Start | Wait | GiveUp


class Race:
    """The state of one race. Events come in by the first four methods; `next_step` says what to do."""

    def __init__(self, limits: RaceLimits, history: History, *, now: float, excluded: Collection[str] = ()) -> None:
        self._limits = limits
        self._history = history
        self._found_by = now + limits.resolve_timeout
        self._patient_until = math.inf
        self._excluded = frozenset(excluded)
        self._waiting: list[Provider] = []
        self._running: dict[str, float] = {}
        self._known: set[str] = set()
        self._attempts = self._busy = 0
        self._exhausted = self._full = False

    @property
    def attempts(self) -> int:
        """How many providers were asked."""
        return self._attempts

    def found(self, provider: Provider, now: float) -> None:
        """The router named a provider; a second naming and an excluded one count for nothing."""
        if provider.peer_id in self._excluded or provider.peer_id in self._known:
            return
        if not self._known:
            self._patient_until = now + PATIENCE
        self._known.add(provider.peer_id)
        self._waiting.append(provider)

    def exhausted(self) -> None:
        """The router can name no more."""
        self._exhausted = True

    def started(self, provider: Provider, now: float) -> None:
        """The provider is being asked."""
        self._waiting.remove(provider)
        self._running[provider.peer_id] = now
        self._attempts += 1

    def failed(self, provider: Provider, *, busy: bool = False) -> None:
        """The provider brought nothing; `busy`: because it has no free upload."""
        self._running.pop(provider.peer_id, None)
        self._busy += busy

    def found_no_room(self, provider: Provider) -> None:
        """This node had no memory for the provider's answer, nor would it for another's: nobody else is asked."""
        self._running.pop(provider.peer_id, None)
        self._full = True

    def next_step(self, now: float) -> Step:
        """What to do now."""
        candidate = self._best(now) if self._may_ask else None
        if not self._running:
            return self._step_with_nobody_asked(candidate, now)
        if candidate is None or len(self._running) >= self._limits.at_once:
            return Wait(math.inf)
        hedge_at = self._hedge_at()
        return Start(candidate, hedge=True) if now >= hedge_at else Wait(hedge_at)

    def _step_with_nobody_asked(self, candidate: Provider | None, now: float) -> Step:
        if candidate is not None:
            suspect = self._history.is_suspect(candidate.peer_id, now)
            if suspect and not self._exhausted and now < self._patient_until:
                return Wait(self._patient_until)
            return Start(candidate, hedge=False)
        if self._full:
            return GiveUp(NO_ROOM)
        if not self._may_ask:
            return GiveUp("attempts")
        if self._exhausted:
            return GiveUp(self._why_exhausted())
        return Wait(self._found_by) if now < self._found_by else GiveUp("resolve_timeout")

    @property
    def _may_ask(self) -> bool:
        return not self._full and self._attempts < self._limits.attempts + min(self._busy, self._limits.busy)

    def _why_exhausted(self) -> str:
        if not self._attempts:
            return "no_provider"
        return "busy" if self._busy == self._attempts else "failed"

    def _hedge_at(self) -> float:
        """The newest attempt decides: each further one waits for its own turn."""
        peer_id, started = max(self._running.items(), key=lambda item: item[1])
        return started + self._history.hedge_after(peer_id)

    def _best(self, now: float) -> Provider | None:
        """The first found that did not fail lately, else the first found."""
        return min(self._waiting, key=lambda p: self._history.is_suspect(p.peer_id, now), default=None)
