"""The figures of a JSON file as docs/performance.md shows them: `python -m benchmarks.markdown FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import about, number

_HEAD = "| figure | median | min to max | goal | met |\n|---|---|---|---|---|"


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """A line about the machine, then a table for each benchmark."""
    yield about(document["machine"]).replace("\n", " ")
    for benchmark in document["benchmarks"]:
        yield f"\n### {benchmark['name']}: {benchmark['title']}\n"
        if benchmark["skipped"] or benchmark["failed"]:
            yield f"Not measured: {benchmark['skipped'] or benchmark['failed']}\n"
        if benchmark["figures"]:
            yield _HEAD
        yield from map(_row, benchmark["figures"])


def _row(figure: Mapping[str, Any]) -> str:
    single = len(figure["values"]) == 1
    spread = "" if single else f"{number(figure['min'])} to {number(figure['max'])}"
    sign = "at least" if figure["goal_is_at_least"] else "at most"
    each = "each " if figure["goal_is_for_each"] else ""
    goal = "" if figure["goal"] is None else f"{each}{sign} {number(figure['goal'])}"
    met = {None: "", True: "yes", False: "**no**"}[figure["met"]]
    ratio = "" if figure["ratio_to_direct"] is None else f", {number(figure['ratio_to_direct'])} of direct"
    name = f"{figure['name']} ({figure['note']})" if figure["note"] else figure["name"]
    return f"| {name} | {number(figure['median'])} {figure['unit']}{ratio} | {spread} | {goal} | {met} |"


if __name__ == "__main__":
    print("\n".join(lines(json.loads(Path(sys.argv[1]).read_text()))))
