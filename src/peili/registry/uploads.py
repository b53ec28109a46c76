"""How many large bodies this node sends to its peers at a time. Pure: a count, nobody waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

# A node pulls some three layers at a time: 64 bodies are some twenty pullers, and on a link of 1 Gbit/s each still
# gets 2 MB/s. Beyond that a puller is served sooner by one that has just finished, or by upstream.
DEFAULT_UPLOADS = 64
# What a peer is told then, and what metrics know such a refusal by.
NO_PLACE = "this node sends as many large blobs as it may (--max-uploads)"


class Uploads:
    """The places for large bodies that go to peers; with `limit` 0 there are always more.

    One address gets at most half of them, so that a single peer (or one that reads nothing) leaves room for others.
    """

    def __init__(self, limit: int = DEFAULT_UPLOADS) -> None:
        self._limit = limit
        self._limit_of_one = (limit + 1) // 2
        self._of_peer: Counter[str] = Counter()
        self._count = 0

    @property
    def in_flight(self) -> int:
        """How many places are taken."""
        return self._count

    @contextmanager
    def place(self, peer: str) -> Iterator[bool]:
        """A place for a body to this address as long as the block lasts; False where none is left."""
        if self._limit and (self._count >= self._limit or self._of_peer[peer] >= self._limit_of_one):
            yield False
            return
        self._count += 1
        self._of_peer[peer] += 1
        try:
            yield True
        finally:
            self._count -= 1
            self._of_peer[peer] -= 1
            if not self._of_peer[peer]:
                del self._of_peer[peer]
