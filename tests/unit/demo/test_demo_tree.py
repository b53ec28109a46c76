"""The demo's pictures."""

from __future__ import annotations

from typing import Any

import pytest

from peili.demo.tree import UNKNOWN, UPSTREAM, bar, draw, sources_of

DIGEST = "sha256:" + "ab" * 32
NAMES = {"127.0.0.1:5000": "node 1", "127.0.0.2:5000": "node 2"}


def request(outcome: str, *providers: str, name: str = DIGEST, handler: str = "mirror") -> dict[str, Any]:
    return {"handler": handler, "name": name, "outcome": outcome, "providers": list(providers)}


@pytest.mark.parametrize(
    ("requests", "source"),
    [
        ([request("miss")], UPSTREAM),
        ([request("hit", "127.0.0.1:5000")], "node 1"),
        ([request("hit", "127.0.0.1:5000", "127.0.0.2:5000")], "node 2"),
        ([request("hit", "10.9.9.9:5000")], UNKNOWN),
        ([request("truncated", "127.0.0.1:5000"), request("miss")], UPSTREAM),
        ([request("hit", handler="serve"), request("hit", "127.0.0.1:5000", name="1.0")], None),
        ([], None),
    ],
)
def test_who_gave_a_layer_is_read_from_the_requests(requests: list[dict[str, Any]], source: str | None) -> None:
    found = sources_of(DIGEST, {"node 3": requests}, NAMES)
    assert found == ({"node 3": source} if source is not None else {})


def test_a_chain_is_one_line() -> None:
    assert draw({"b": "a", "a": UPSTREAM, "c": "b"}) == ["upstream ─ a ─ b ─ c"]


def test_a_tree_has_a_line_for_each_node_that_gave_it_to_nobody() -> None:
    sources = {"a": UPSTREAM, "b": "a", "c": "a", "d": "a", "e": "c", "f": "c", "g": UNKNOWN}
    assert draw(sources) == [
        "upstream ─ a ┬ b",
        "             ├ c ┬ e",
        "             │   └ f",
        "             └ d",
        "? ─ g",
    ]


def test_nobody_took_anything() -> None:
    assert draw({}) == []


def test_bars_are_as_long_as_their_share() -> None:
    assert bar(50, 100, width=10) == "#####"
    assert bar(100, 100, width=10) == "#" * 10
    assert bar(0.1, 100, width=10) == "#"
    assert bar(0, 100) == ""
