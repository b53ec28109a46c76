"""What the tests need is looked for, fetched, and never skipped without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chart import install as chart
from tests.integration import install


def program(path: Path, prints: str, status: int = 0) -> Path:
    """A program that says this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
    path.chmod(0o755)
    return path


def test_programs_that_are_not_there_are_named_by_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "SYSTEM_PATH", str(tmp_path))
    missing = install.missing_packages()
    assert {"containerd", "gcc", "libc6-dev", "iproute2"} <= set(missing)
    assert missing == sorted(set(missing))
    program(tmp_path / "cc", "")
    assert not {"gcc", "libc6-dev"} & set(install.missing_packages())


@pytest.mark.parametrize(
    ("said", "can"),
    [
        ("go version go1.26.8 linux/amd64", True),
        ("go version go1.21.0 linux/amd64", True),
        ("go version go1.19.8 linux/amd64", False),  # Debian bookworm's
        ("go version devel +abc", False),
        ("", False),
    ],
)
def test_a_go_is_used_where_it_can_build_helm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, can: bool
) -> None:
    go = program(tmp_path / "go", said)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chart, "GO_PLACES", str(tmp_path / "nowhere"))
    assert chart.find_go() == (str(go) if can else None)


def test_an_old_go_on_the_path_does_not_hide_a_newer_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "old" / "go", "go version go1.19.8 linux/amd64")
    new = program(tmp_path / "new" / "go", "go version go1.27.3 linux/amd64")
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    monkeypatch.setattr(chart, "GO_PLACES", str(tmp_path / "new"))
    assert chart.find_go() == str(new)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("v20.19.2", ""),
        ("v24.1.0", ""),
        ("v18.20.4", "js-libp2p needs Node 20 or newer, and this is v18.20.4"),  # Debian bookworm's
        ("what", "and this is what"),
    ],
)
def test_node_is_new_enough_from_20_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, problem: str
) -> None:
    program(tmp_path / "node", said)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.node_problem() == "not installed: npm; js-libp2p needs Node 20 or newer"
    program(tmp_path / "npm", "")
    assert install.node_problem().endswith(problem)
    assert bool(install.node_problem()) == bool(problem)
