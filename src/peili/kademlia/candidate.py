"""Peers as one lookup sees them: how far it is with each, and on whose word it knows them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from peili.kademlia.contact import Contact

MAX_SOURCES: Final = 4  # remembered of one candidate


class State(Enum):
    """How far a lookup is with a peer."""

    UNASKED = auto()
    ASKED = auto()
    ANSWERED = auto()
    FAILED = auto()


class Source:
    """One who named peers. `score`: how many of them answered minus how many failed."""

    __slots__ = ("score",)

    def __init__(self) -> None:
        self.score = 0


class Candidate:
    """One peer met in a lookup."""

    __slots__ = ("asked_at", "contact", "distance", "hops", "sources", "state", "suspect")

    def __init__(self, contact: Contact, distance: int, sources: list[Source], hops: int, suspect: bool) -> None:
        self.contact = contact
        self.distance = distance
        self.sources = sources  # who named it, at most MAX_SOURCES; nobody: our own table
        self.hops = hops
        self.suspect = suspect
        self.state = State.UNASKED
        self.asked_at = 0.0


def is_unproven(sources: Sequence[Source]) -> bool:
    """Whether nobody who named this peer has led to an answer yet; our own table needs no proof."""
    return bool(sources) and all(source.score <= 0 for source in sources)
