"""What every benchmark gets: how thorough to be, where to put files, and where to say what it is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.figure import Figure

T = TypeVar("T")


class CannotMeasure(Exception):
    """This machine lacks what a benchmark needs; the text says what."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run. `suite` is the containerd under measurement; `directory` is in memory where there is room."""

    directory: Path
    quick: bool = False
    suite: str = "sid"
    mirrors: tuple[str, ...] = ("none", "peili")
    runs: int | None = None
    started: float = field(default_factory=time.monotonic)

    def pick(self, thorough: T, quick: T) -> T:
        """One of two, by how thorough this run is."""
        return quick if self.quick else thorough

    def times(self, thorough: int, quick: int = 1) -> int:
        """How often to measure what is measured few times."""
        return self.runs or self.pick(thorough, quick)

    def say(self, text: str) -> None:
        """Show progress, on standard error."""
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark of the catalogue. `lab`: it needs root, network namespaces and real containerds."""

    name: str
    title: str
    run: Callable[[Bench], Iterator[Figure]]
    lab: bool = False
