"""A content directory that this process may not read: `peili check` and a running node say so, and why."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534
# Whoever is root may read everything: so a process of its own gives that up, with all that it imports at hand.
AS_NOBODY = f"""
import os, sys, trio
from pathlib import Path
from peili.containerd.check import content_fact
from peili.store.containerd.content import discover_root
from peili.store.protocol import StoreError
trio.run(trio.sleep, 0)  # has it import what it needs: nobody may not read where that lies
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
root = Path(sys.argv[1])
fact = content_fact(root)
print(fact.state.value, fact.detail)
try:
    print(trio.run(discover_root, None, root))
except StoreError as error:
    print(error)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A content directory that everybody may read; tmp_path's parents are its user's alone."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "containerd" / "content"
        (root / "blobs" / "sha256").mkdir(parents=True)
        for path in (root, *list(root.parents)[:2], root / "blobs", root / "blobs" / "sha256"):
            path.chmod(0o755)
        yield root
        for path in (root.parent, root, root / "blobs"):
            path.chmod(0o755)


def said(root: Path) -> tuple[str, str]:
    """What the check and the store say of it."""
    command = [sys.executable, "-c", AS_NOBODY, str(root)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    check, store = done.stdout.splitlines()
    return check, store


def close(path: Path) -> None:
    """As containerd makes its directories: for its own user. Without root even that one may not."""
    path.chmod(0o700 if os.geteuid() == 0 else 0o000)


def test_a_directory_that_can_be_read_is_good(root: Path) -> None:
    assert said(root) == ("good ", str(root))


@pytest.mark.parametrize("closed", ["content", "containerd"])
def test_a_closed_directory_is_denied(root: Path, closed: str) -> None:
    close(root if closed == "content" else root.parent)
    check, store = said(root)
    assert check == f"denied no permission to read {root}"
    assert store == f"the content directory {root} cannot be read: run Peili as root, as containerd does"


def test_closed_blobs_are_denied(root: Path) -> None:
    close(root / "blobs")
    assert said(root)[0] == f"denied no permission to read {root}"
