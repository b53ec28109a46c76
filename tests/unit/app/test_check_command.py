"""`peili check` as people see it: aligned, with colours on a terminal, and a status that scripts can use."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner, Result

from peili.cli import main
from peili.containerd import check
from peili.containerd.findings import Finding, Level

FINE = [
    Finding("socket", Level.OK, "answers at /run/containerd/containerd.sock"),
    Finding("discard_unpacked_layers", Level.WARN, "is set", "Set it to false.\nThen restart containerd."),
]
BROKEN = Finding("config_path", Level.FAIL, "is not set", "Set it.")
COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def checked(monkeypatch: pytest.MonkeyPatch, found: list[Finding], *options: str, color: bool = False) -> Result:
    async def look(_: check.CheckSettings) -> list[Finding]:
        return found

    monkeypatch.setattr(check, "check", look)
    return CliRunner().invoke(main, ["check", *options], color=color)


def test_levels_names_facts_and_advice_stand_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = checked(monkeypatch, [*FINE, BROKEN]).output.splitlines()
    assert [line.split()[:2] for line in lines if line[0] != " "] == [
        ["ok", "socket"],
        ["warn", "discard_unpacked_layers"],
        ["fail", "config_path"],
    ]
    texts = ["answers", "is set", "Set it to", "Then restart", "is not set", "Set it."]
    assert len(lines) == len(texts)
    assert len({line.index(text) for line, text in zip(lines, texts, strict=True)}) == 1
    assert len({line.index(finding.name) for line, finding in zip(lines[:2], FINE, strict=True)}) == 1


def test_levels_have_colours_on_a_terminal_and_none_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*FINE, BROKEN]
    coloured, plain = checked(monkeypatch, found, color=True).output, checked(monkeypatch, found).output
    lines = [line for line in coloured.splitlines() if line.startswith("\x1b")]
    for line, finding in zip(lines, found, strict=True):
        assert line.startswith(click.style(f"{finding.level.value:<4}", fg=COLOURS[finding.level]))
    assert click.unstyle(coloured) == plain
    assert "\x1b" not in plain


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_only_what_fails_is_status_1(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    assert checked(monkeypatch, FINE, *options).exit_code == 0
    failed = checked(monkeypatch, [*FINE, BROKEN], *options)
    assert failed.exit_code == 1
    if options:
        assert [one["level"] for one in json.loads(failed.output)] == ["ok", "warn", "fail"]
