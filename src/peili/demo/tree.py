"""Pictures in text: who took a layer from whom, and how much that is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

UPSTREAM: Final = "upstream"
UNKNOWN: Final = "?"


def sources_of(
    digest: str, requests: Mapping[str, Iterable[Mapping[str, Any]]], names: Mapping[str, str]
) -> dict[str, str]:
    """From whom each node took this content, or its last part, as the nodes' status documents say.

    `requests`: by node; `names`: the nodes by the address of their registry. Who did not ask for it is left out.
    """
    found: dict[str, str] = {}
    for node, each in requests.items():
        for request in each:
            if request["handler"] != "mirror" or request["name"] != digest:
                continue
            if request["outcome"] == "miss":
                found[node] = UPSTREAM
            elif request["providers"]:
                found[node] = names.get(request["providers"][-1], UNKNOWN)
    return found


def draw(sources: Mapping[str, str]) -> list[str]:
    """The tree, from left to right: one line for each node that gave it to nobody."""
    children: dict[str, list[str]] = {}
    for node, source in sorted(sources.items()):
        children.setdefault(source, []).append(node)
    roots = [root for root in (UPSTREAM, UNKNOWN) if root in children]
    return [line for root in roots for line in _draw(root, children)]


def bar(value: float, longest: float, *, width: int = 40) -> str:
    """A bar as long as this value's share of the longest one."""
    return "#" * max(1, round(width * value / longest)) if value else ""


def _draw(name: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    below = [_draw(child, children) for child in children.get(name, ())]
    lines: list[str] = []
    for place, subtree in enumerate(below):
        last = place == len(below) - 1
        for row, line in enumerate(subtree):
            head = name if not lines else " " * len(name)
            lines.append(f"{head} {_joint(place, row, last=last)} {line}")
    return lines or [name]


def _joint(place: int, row: int, *, last: bool) -> str:
    if row:
        return " " if last else "│"
    if place:
        return "└" if last else "├"
    return "─" if last else "┬"
