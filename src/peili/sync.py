"""Tells the router what the store holds, for as long as the node lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from peili.oci.key import Key
from peili.routing.protocol import Router
from peili.store.protocol import Added, Kind, Store


@dataclass(slots=True)
class Provided:
    """What the router was told of. Every digest that is held is (Policy.offers), so only the tags are counted."""

    begun: bool = False
    tags: int = 0

    def by_kind(self, held: Mapping[Kind, int]) -> dict[Kind, int]:
        """How many keys of each kind are provided, where these are held."""
        return {**held, Kind.TAG: self.tags} if self.begun else dict.fromkeys(held, 0)


async def keep_provided(
    store: Store,
    router: Router,
    offers: Callable[[Key], bool],
    provided: Provided,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Provide what the store gains and take back what it loses, until cancelled.

    `offers` says which keys may be offered at all, `provided` what the router has been told of.
    `task_status.started()` is called once the router has taken on everything that the store holds; the store has
    to have walked once before.
    """
    async with store.changes() as changes:
        async for change in changes:
            keys = frozenset(filter(offers, change.keys))
            tags = sum("/" in key for key in keys)  # no digest has one
            if isinstance(change, Added):
                await router.provide(keys)
                provided.tags += tags
            else:
                await router.stop_providing(keys)
                provided.tags -= tags
            if not provided.begun:
                provided.begun = True
                task_status.started()
