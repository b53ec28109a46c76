"""`peili status` as people and scripts see it, and the tables and colours of `explain`."""

from __future__ import annotations

import json
import time
from typing import Any

import click
import pytest
from click.testing import CliRunner

from peili.cli import main
from peili.commands import explain, status
from peili.version import VERSION

STATUS: dict[str, Any] = {
    "version": VERSION,
    "ready": True,
    "reason": "ready",
    "router": {
        "kind": "kademlia",
        "peer_id": "12D3KooWa",
        "provided_keys": 3,
        "records": 4,
        "bootstrap_problem": "",
        "peers": [
            {"peer_id": "12D3KooWab", "host": "10.0.0.1", "registry_port": 5000, "agent": "a", "connected": True},
            {"peer_id": "12D", "host": "fd00::5", "registry_port": 5000, "agent": "peili/1", "connected": False},
        ],
    },
    "store": {"kind": "containerd", "detail": "/run", "keys": {"tag": 1, "layer": 0}, "bytes": 10, "problem": ""},
    "totals": dict.fromkeys(
        ("bytes_from_peers", "bytes_from_local", "bytes_from_upstream", "bytes_to_peers", "hits", "misses"), 1000
    ),
    "requests": [],
}
PART = {"kind": "layer", "name": "sha256:" + "ab" * 32, "size": 5_000_000, "local": False}


def test_watching_outlives_a_node_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [STATUS, status.NoAnswer("no Peili answers at http://x"), {**STATUS, "ready": False, "reason": "why"}]

    def read(*_: object) -> dict[str, Any]:
        if not answers:
            raise KeyboardInterrupt
        answer = answers.pop(0)
        if isinstance(answer, status.NoAnswer):
            raise answer
        assert isinstance(answer, dict)
        return answer

    monkeypatch.setattr(status, "read_node", read)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    given = list(answers)
    result = CliRunner().invoke(main, ["status", "--watch"])
    assert result.exit_code == 0, result.output
    first, second, third = (
        result.output.index(text) for text in ("   ready", "no Peili answers", "NOT READY: why")
    )
    assert first < second < third
    answers[:] = given
    result = CliRunner().invoke(main, ["status", "--watch", "--json"])
    documents = [json.loads(line) for line in result.output.splitlines()]
    assert documents == [given[0], {"problem": "no Peili answers at http://x"}, given[2]]


def test_what_is_saved_is_what_peers_gave_instead_of_upstream() -> None:
    totals = {**STATUS["totals"], "bytes_from_peers": 3000, "bytes_from_local": 7000, "bytes_from_upstream": 1000}
    (line,) = [line for line in status.render({**STATUS, "totals": totals}) if line.startswith("pulled")]
    assert line == "pulled   3.0 kB from peers, 7.0 kB from here, 1.0 kB from upstream (75% saved)"


def test_columns_stand_below_each_other() -> None:
    lines = status.render(STATUS)
    (head,) = [number for number, line in enumerate(lines) if line.startswith("PEER")]
    rows = lines[head : head + 3]
    for name, first, second in (("ADDRESS", "10.0.0.1:5000", "[fd00::5]:5000"), ("CONNECTED", "yes", "no")):
        assert rows[0].index(name) == rows[1].index(first) == rows[2].index(second)
    assert not any(row.endswith(" ") for row in rows)


@pytest.mark.parametrize(("ready", "colour"), [(True, "green"), (False, "red")])
def test_readiness_has_a_colour_on_a_terminal_and_none_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, ready: bool, colour: str
) -> None:
    document = {**STATUS, "ready": ready, "reason": "why"}
    monkeypatch.setattr(status, "read_node", lambda *_: document)
    word = click.style("ready", fg="green") if ready else click.style("NOT READY: why", fg="red", bold=True)
    assert word in CliRunner().invoke(main, ["status"], color=True).output, colour
    assert "\x1b" not in CliRunner().invoke(main, ["status"]).output


@pytest.mark.parametrize("as_json", [False, True])
def test_a_node_that_is_not_ready_is_status_1(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    words = ["status", "--json"] if as_json else ["status"]
    for ready, code in ((True, 0), (False, 1)):
        document = {**STATUS, "ready": ready, "reason": "why"}
        monkeypatch.setattr(status, "read_node", lambda *_, document=document: document)
        result = CliRunner().invoke(main, words)
        assert result.exit_code == code
        assert (json.loads(result.output) == document) if as_json else ("NOT READY: why" in result.output) != ready


def test_colours_do_not_move_the_columns_of_an_explanation() -> None:
    actions = ("from this node", "from a peer", "from upstream")
    parts = [{**PART, "providers": ["10.0.0.1:5000"] * count, "action": one} for count, one in enumerate(actions)]
    lines = explain.render({"image": "a", "problem": "", "parts": parts})[1:]
    assert sum("\x1b" in line for line in lines) == 3
    plain = [click.unstyle(line) for line in lines]
    start = plain[0].index("A PULL TAKES IT")
    assert [line[start:] for line in plain[1:]] == list(actions)


def test_the_version_for_people_and_for_scripts() -> None:
    assert CliRunner().invoke(main, ["version"]).output == f"peili {VERSION}\n"
    assert json.loads(CliRunner().invoke(main, ["version", "--json"]).output) == {"version": VERSION}
