"""The table that people read and the document that programs read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import Benchmark
from benchmarks.figure import Figure, Goal

_HEAD = ("figure", "unit", "min", "median", "max", "direct", "of direct", "goal", "of goal", "met")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one benchmark. `skipped` and `failed` say why where they are not empty."""

    benchmark: Benchmark
    figures: tuple[Figure, ...] = ()
    skipped: str = ""
    failed: str = ""
    seconds: float = 0.0
    load: float = 0.0  # the machine's load average when it began


def table(machine: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """All figures in columns, below a line about the machine."""
    rows = [_row(figure) for outcome in outcomes for figure in outcome.figures]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    lines = [about(machine), "", _line(_HEAD, widths), _line(tuple("-" * width for width in widths), widths)]
    for outcome in outcomes:
        lines.append(f"{outcome.benchmark.name}: {outcome.benchmark.title}")
        lines += [_line(_row(figure), widths) + _note(figure) for figure in outcome.figures]
        if outcome.skipped:
            lines.append(f"  NOT MEASURED: {outcome.skipped}")
        if outcome.failed:
            lines.append(f"  FAILED: {outcome.failed}")
    return "\n".join([*lines, "", _sum(outcomes)])


def document(machine: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """Everything, for JSON."""
    return {
        "machine": dict(machine),
        "benchmarks": [
            {
                "name": outcome.benchmark.name,
                "title": outcome.benchmark.title,
                "skipped": outcome.skipped,
                "failed": outcome.failed,
                "seconds": round(outcome.seconds, 1),
                "load_before": outcome.load,
                "figures": [dict(figure.document()) for figure in outcome.figures],
            }
            for outcome in outcomes
        ],
    }


def about(machine: Mapping[str, Any]) -> str:
    """When, what and where, and whether to believe it."""
    text = ", ".join(
        [
            f"{machine['time']}",
            f"commit {machine['commit']}{' with changes' if machine['changed'] else ''}",
            f"{machine['cores']} x {machine['processor']}",
            f"Linux {machine['kernel']}",
            f"Python {machine['python']}",
            f"{'quick run' if machine.get('quick') else 'whole run'}",
            f"load before {machine['load_before']:.2f}",
        ]
    )
    return text + ("\nTHE MACHINE WAS BUSY BEFORE THE RUN: these figures are noisy." if machine["busy"] else "")


def _sum(outcomes: Sequence[Outcome]) -> str:
    verdicts = [figure.met for outcome in outcomes for figure in outcome.figures if figure.met is not None]
    missed = [figure.name for outcome in outcomes for figure in outcome.figures if figure.met is False]
    failed = [outcome.benchmark.name for outcome in outcomes if outcome.failed]
    skipped = [outcome.benchmark.name for outcome in outcomes if outcome.skipped]
    judged = f"{sum(verdicts)} of {len(verdicts)} goals met"
    parts = [judged if verdicts else "no goal was judged (a quick run judges none)"]
    parts += [f"not met: {'; '.join(missed)}"] if missed else []
    parts += [f"failed: {', '.join(failed)}"] if failed else []
    parts += [f"not measured: {', '.join(skipped)}"] if skipped else []
    return "\n".join(parts)


def _row(figure: Figure) -> tuple[str, ...]:
    goal, met = figure.goal, figure.met
    single = len(figure.values) == 1
    direct = statistics.median(figure.direct) if figure.direct else None
    return (
        f"  {figure.name}",
        figure.unit,
        "" if single else number(min(figure.values)),
        number(figure.median),
        "" if single else number(max(figure.values)),
        "" if direct is None else number(direct),
        "" if figure.ratio is None else number(figure.ratio),
        "" if goal is None else _goal(goal, each=figure.judge_worst),
        "" if figure.share_of_goal is None else number(figure.share_of_goal),
        "" if met is None else "yes" if met else "NO",
    )


def _goal(goal: Goal, *, each: bool) -> str:
    return f"{'each ' if each else ''}{'>=' if goal.at_least else '<='} {number(goal.limit)}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()


def _note(figure: Figure) -> str:
    return f"   ({figure.note})" if figure.note else ""


def number(value: float) -> str:
    """Three digits that mean something; whole numbers whole."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
