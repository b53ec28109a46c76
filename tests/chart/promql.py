"""Just enough of PromQL to know which series a query asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>(?:[0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?(?:ms|[smhdwy])?)|\$__(?:rate_interval|range|interval))
    |(?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){}\[\],:@])""",
    re.X,
)
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_OPERATORS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
FUNCTIONS = frozenset(
    {
        "sum",
        "count",
        "min",
        "max",
        "avg",
        "rate",
        "increase",
        "changes",
        "histogram_quantile",
        "time",
        "topk",
        "vector",
    }
)


class NotPromQL(ValueError):
    """The text is no query that this understands."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Series that a query reads: the metric, and (label, operator, value) as they are matched."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What a query names: series, and labels by which it groups."""

    selectors: tuple[Selector, ...]
    grouping: tuple[str, ...]


def tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token; raise NotPromQL."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotPromQL(f"at {text[position : position + 20]!r}")
        position = match.end()
        kind = match.lastgroup or ""
        if kind != "space":
            found.append((kind, match[0]))
    _check_brackets(found)
    return found


def _check_brackets(found: Sequence[tuple[str, str]]) -> None:
    pairs, open_ones = {")": "(", "}": "{", "]": "["}, list[str]()
    for kind, text in found:
        if kind == "sign" and text in "({[":
            open_ones.append(text)
        elif kind == "sign" and text in ")}]" and (not open_ones or open_ones.pop() != pairs[text]):
            raise NotPromQL(f"{text} closes nothing")
    if open_ones:
        raise NotPromQL(f"{open_ones[-1]} is not closed")


def parse(text: str) -> Query:
    """The series and the grouping labels of a query; raise NotPromQL."""
    left = tokens(text)
    selectors: list[Selector] = []
    grouping: list[str] = []
    position = 0
    while position < len(left):
        kind, word = left[position]
        position += 1
        if kind != "word" or word in _OPERATORS:
            continue
        following = left[position][1] if position < len(left) else ""
        if word in _GROUPING:
            if following == "(":
                names, position = _until(left, position, ")")
                grouping += [name for one, name in names if one == "word"]
        elif following == "(":
            if word not in FUNCTIONS:
                raise NotPromQL(f"unknown function {word}")
        elif following in ("by", "without"):
            continue  # an aggregation with its grouping first
        else:
            inside, position = _until(left, position, "}") if following == "{" else ([], position)
            selectors.append(Selector(word, tuple(_matchers(inside))))
    return Query(tuple(selectors), tuple(grouping))


def _until(left: Sequence[tuple[str, str]], position: int, end: str) -> tuple[list[tuple[str, str]], int]:
    stop = next(index for index in range(position, len(left)) if left[index] == ("sign", end))
    return list(left[position + 1 : stop]), stop + 1


def _matchers(inside: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    parts = [one for one in inside if one != ("sign", ",")]
    if len(parts) % 3:
        raise NotPromQL(f"no matchers: {inside}")
    for index in range(0, len(parts), 3):
        (label_kind, label), (_, operator), (value_kind, value) = parts[index : index + 3]
        if label_kind != "word" or operator not in ("=", "!=", "=~", "!~") or value_kind != "string":
            raise NotPromQL(f"no matcher: {label}{operator}{value}")
        yield label, operator, value[1:-1]
