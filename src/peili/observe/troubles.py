"""What an operator should read in the log without being asked: each trouble once, and its end. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# A node may be alone for a while: the first of a cluster, a roll-out, a cluster of one.
LONELY_AFTER = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class Notice:
    """One line of the log."""

    warning: bool
    event: str
    problem: str = ""


class Troubles:
    """Remembers what was said. Times in seconds of the caller's clock."""

    def __init__(self, now: float) -> None:
        self._store_problem = ""
        self._setup_problem = ""
        self._alone_since: float | None = now
        self._said_alone = False

    def store(self, problem: str) -> Notice | None:
        """The store's problem now, or nothing."""
        if problem == self._store_problem:
            return None
        self._store_problem = problem
        if problem:
            return Notice(True, "the content store does not answer", problem)
        return Notice(False, "the content store answers again")

    def setup(self, problem: str) -> Notice | None:
        """Why containerd asks no mirror now, or nothing."""
        if problem == self._setup_problem:
            return None
        self._setup_problem = problem
        if problem:
            return Notice(True, "this node's containerd does not ask Peili", problem)
        return Notice(False, "this node's containerd is set up to ask Peili")

    def peers(self, count: int, bootstrap_problem: str, now: float, *, expected: bool) -> Notice | None:
        """How many peers there are. `expected`: whether the settings name a place to find some."""
        if count:
            found, self._alone_since, self._said_alone = self._said_alone, None, False
            return Notice(False, "peers are back") if found else None
        if self._alone_since is None:
            self._alone_since = now
        if self._said_alone or not expected or now - self._alone_since < LONELY_AFTER:
            return None
        self._said_alone = True
        reason = bootstrap_problem or "bootstrap names nobody but this node, or nobody there answers"
        advice = "are the router's ports open between the nodes, and is --bootstrap right?"
        return Notice(True, "no peers for ten minutes: every pull goes upstream", f"{reason}; {advice}")
