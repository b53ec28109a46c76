"""A figure: what was measured, how often, and what it ought to be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure's values must reach: at most `limit`, or at least."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether this reaches it."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """Measured values of one thing in one unit. `direct` are those of the same without a mirror, or undisturbed.

    Its goal is for the median, or with `judge_worst` for every single value: what is promised is no average.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    goal: Goal | None = None
    direct: tuple[float, ...] = ()
    note: str = ""
    judge_worst: bool = False

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.name} has no values")

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def judged(self) -> float:
        """The value that the goal is for."""
        if not self.judge_worst:
            return self.median
        return min(self.values) if self.goal is not None and self.goal.at_least else max(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.goal is None else self.goal.met(self.judged)

    @property
    def ratio(self) -> float | None:
        """The median by that of `direct`."""
        base = statistics.median(self.direct) if self.direct else 0.0
        return self.median / base if base else None

    @property
    def share_of_goal(self) -> float | None:
        """The judged value by the goal's limit."""
        return self.judged / self.goal.limit if self.goal is not None and self.goal.limit else None

    def document(self) -> Mapping[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "values": list(self.values),
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "direct": list(self.direct),
            "ratio_to_direct": self.ratio,
            "goal": None if self.goal is None else self.goal.limit,
            "goal_is_at_least": None if self.goal is None else self.goal.at_least,
            "goal_is_for_each": self.judge_worst,
            "share_of_goal": self.share_of_goal,
            "met": self.met,
            "note": self.note,
        }


def at_most(limit: float | None) -> Goal | None:
    """The usual goal."""
    return None if limit is None else Goal(limit)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed, by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)]


def of_many(
    name: str, unit: str, values: Sequence[float], *, p50: float | None = None, p99: float | None = None
) -> list[Figure]:
    """Two figures of many single measurements, each with its limit: the median and the 99th percentile."""
    note = f"{len(values)} measurements"
    return [
        Figure(f"{name}, p50", unit, tuple(values), at_most(p50), note=note),
        Figure(f"{name}, p99", unit, (percentile(values, 0.99),), at_most(p99), note=note),
    ]
