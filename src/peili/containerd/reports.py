"""What `peili configure` and `peili cleanup` tell when they are done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was left as it is: where (`line` counts from 1), why, and what to do."""

    path: Path
    message: str
    line: int | None = None

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        return f"{self.path}{line}: {self.message}"


@dataclass(frozen=True, slots=True)
class ConfigureReport:
    """Files written, files that were right already, files put back because they are not wanted any more."""

    changed: tuple[Path, ...] = ()
    unchanged: tuple[Path, ...] = ()
    undone: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """Files put back as they were, files and directories removed, and files that keep edits made by hand since."""

    restored: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
