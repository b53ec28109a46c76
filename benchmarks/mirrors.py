"""What pulls are made with. Each puts itself in front of containerd's upstream on a node of the laboratory, or not.

A mirror of another kind fits in here: write a class with these methods and name it in MIRRORS.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.integration.lab import node as lab_node
from tests.integration.lab.node import Node

_QUIET = "--log-level=info"  # what an operator runs; the laboratory's tests log more


class Mirror(Protocol):
    """A mirror on every node of a cluster."""

    def start(self, nodes: Sequence[Node]) -> None:
        """Start it on these nodes and wait until it is ready everywhere."""

    def use(self, node: Node, yes: bool) -> None:
        """Let the node's containerd ask it, or not."""

    def pids(self, nodes: Sequence[Node]) -> list[int]:
        """Its processes."""


class NoMirror:
    """Every node asks the upstream."""

    def start(self, nodes: Sequence[Node]) -> None:
        """Nothing to start."""

    def use(self, node: Node, yes: bool) -> None:
        """Nothing to use."""

    def pids(self, nodes: Sequence[Node]) -> list[int]:
        """None."""
        return []


class PeiliMirror:
    """`peili run` on every node."""

    def start(self, nodes: Sequence[Node]) -> None:
        """Start them all, then wait."""
        for node in nodes:
            node.start_peili(_QUIET)
        for node in nodes:
            node.wait_peili()

    def use(self, node: Node, yes: bool) -> None:
        """`peili configure` or `peili cleanup`."""
        if yes:
            node.configure()
        else:
            node.cleanup()

    def pids(self, nodes: Sequence[Node]) -> list[int]:
        """One on each node."""
        return [node.peili.pid for node in nodes]


MIRRORS: Mapping[str, Callable[[], Mirror]] = {"none": NoMirror, "peili": PeiliMirror}


@contextmanager
def without_capabilities(directory: Path) -> Iterator[None]:
    """Every Peili that starts meanwhile sees what a container without capabilities sees."""
    script = directory / "peili-without-capabilities"
    script.write_text(
        f'#!/bin/sh\nexec setpriv --bounding-set -all --inh-caps -all --no-new-privs -- {lab_node.PEILI} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    before, lab_node.PEILI = lab_node.PEILI, script
    try:
        yield
    finally:
        lab_node.PEILI = before
