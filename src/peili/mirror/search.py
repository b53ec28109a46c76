"""Who else provides a key: found out beside the question to the coordinators, and only as far as it is needed.

They mostly answer in two or three milliseconds, and what they say is mostly enough: they are the ones whom a search
would ask first. Three layers at once, each with a search besides, would only wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import trio

from peili.mirror.lookup import Lookup
from peili.oci.key import Key
from peili.routing.protocol import Provider

HEAD_START: Final = 0.010  # seconds for the coordinators


class Search:
    """Looks for the first provider where none is known, and for all others when told to. Ends with the nursery."""

    def __init__(self, lookup: Lookup, key: Key, nursery: trio.Nursery, known: Sequence[Provider] = ()) -> None:
        """`known`: providers that this node was told of."""
        self.found: list[Provider] = list(known)  # so far
        self._lookup = lookup
        self._key = key
        self._nursery = nursery
        self._goes_on = False
        self._wanted = trio.Event()
        self._began_at = inf
        self._first = trio.Event()
        if known:
            self._first.set()
        else:
            nursery.start_soon(self._find_first)

    async def found_anybody(self, patience: float = inf) -> bool:
        """Wait until that is known, for so many seconds, and twice that since the search began.

        No longer than the lookup's limit.
        """
        self._wanted.set()
        now = trio.current_time()
        with trio.move_on_at(max(now + patience, min(now, self._began_at) + 2 * patience)):
            await self._first.wait()
        return bool(self.found)

    def go_on(self) -> None:
        """Those that were found do not do: look for all others, again if need be."""
        if not self._goes_on:
            self._goes_on = True
            self._nursery.start_soon(self._find_all)

    async def _find_first(self) -> None:
        try:
            with trio.move_on_after(HEAD_START):
                await self._wanted.wait()
            self._began_at = trio.current_time()
            with trio.move_on_after(self._lookup.limits.resolve_timeout):
                await self._lookup.name_first(self._key, self._note)
        finally:
            self._first.set()

    async def _find_all(self) -> None:
        with trio.move_on_after(self._lookup.limits.resolve_timeout):
            await self._lookup.name_all(self._key, self._note)
        self._goes_on = False

    def _note(self, provider: Provider) -> None:
        if all(provider.peer_id != each.peer_id for each in self.found):
            self.found.append(provider)
