"""How many bytes of whole bodies, read to be hashed, this node holds in memory at a time.

Such a body stays from before it is read until the client has taken it, and a client that reads nothing keeps it
until the server's write timeout. So their sum is bounded: who finds no room waits a moment, and goes upstream then.
"""

from __future__ import annotations

from typing import Final

import trio

# Four of the largest manifests, or sixteen of the largest small blobs: far more than the containerd of one node
# takes at the same time, and little beside the 128 MiB that the chart gives to all of Peili.
WHOLE_BODY_BYTES: Final = 16 * 1024 * 1024
# Seconds. On a local network a body of 1 MiB comes and goes within a tenth of that; a puller hardly notices it.
PATIENCE: Final = 1.0


class NoRoom(Exception):
    """There was no room for a body in time. No provider is at fault, and another one would help nobody."""


class Lease:
    """Room for one body, taken until it is released."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def release(self) -> None:
        """Give the room back; a second time means nothing."""
        size, self.size = self.size, 0
        self._budget.give_back(size)


class BodyBudget:
    """The room for whole bodies of one node. There is no queue: whoever fits goes first, however late it came."""

    def __init__(self, limit: int = WHOLE_BODY_BYTES, *, patience: float = PATIENCE) -> None:
        """`limit` in bytes; `patience`: seconds that one waits for room."""
        self._limit = limit
        self._patience = patience
        self._held = 0
        self._changed = trio.Event()

    @property
    def held(self) -> int:
        """Bytes that are taken now."""
        return self._held

    async def take(self, size: int) -> Lease:
        """Room for so many bytes, which the caller releases. Raise NoRoom; where there is room, nobody waits."""
        with trio.move_on_after(self._patience):
            while self._held + size > self._limit:
                await self._changed.wait()
            self._held += size
            return Lease(self, size)
        raise NoRoom(f"no room for {size} bytes: {self._held} of {self._limit} are held")

    def give_back(self, size: int) -> None:
        """So many bytes are held no longer; for Lease."""
        self._held -= size
        self._changed.set()
        self._changed = trio.Event()
