"""Telling readers which keys came and went: each gets every change, merged where it reads slowly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Set
from contextlib import asynccontextmanager

import trio

from peili.oci.key import Key
from peili.store.protocol import Added, Change, Removed


class Subscription:
    """One reader's changes. What waits for it is the difference between what it knows and what is: never more."""

    __slots__ = ("_added", "_removed", "_started", "_woken")

    def __init__(self, held: Collection[Key]) -> None:
        self._added = set(held)
        self._removed: set[Key] = set()
        self._started = False
        self._woken = trio.Event()

    def tell(self, added: Set[Key], removed: Set[Key]) -> None:
        """Keys came and went; a key that went and came back before it was read is no change."""
        self._removed |= removed - self._added
        self._added -= removed
        self._added |= added - self._removed
        self._removed -= added
        self._woken.set()

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        await trio.lowlevel.checkpoint()
        while True:
            change = self._take()
            if change is not None:
                return change
            self._woken = trio.Event()
            await self._woken.wait()

    def _take(self) -> Change | None:
        if self._removed:
            removed, self._removed = frozenset(self._removed), set()
            return Removed(removed)
        if self._added or not self._started:
            self._started = True
            added, self._added = frozenset(self._added), set()
            return Added(added)
        return None


class Subscriptions:
    """All readers of one store."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: set[Subscription] = set()

    def tell(self, added: Set[Key], removed: Set[Key]) -> None:
        """Tell every reader; the sets are disjoint."""
        if added or removed:
            for subscription in self._all:
                subscription.tell(added, removed)

    @asynccontextmanager
    async def open(self, held: Collection[Key]) -> AsyncIterator[AsyncIterator[Change]]:
        """A subscription whose first item is Added(held), even where that is empty. One task reads it."""
        subscription = Subscription(held)
        self._all.add(subscription)
        try:
            yield subscription
        finally:
            self._all.discard(subscription)
