"""Tells the router what the store holds, for as long as the node lives."""

from __future__ import annotations

from collections.abc import Callable

import trio

from peili.oci.key import Key
from peili.routing.protocol import Router
from peili.store.protocol import Added, Store


async def keep_provided(
    store: Store,
    router: Router,
    offers: Callable[[Key], bool],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Provide what the store gains and take back what it loses, until cancelled.

    `offers` says which keys may be offered at all. `task_status.started()` is called once the router has taken
    on everything that the store holds; the store has to have walked once before.
    """
    first = True
    async with store.changes() as changes:
        async for change in changes:
            keys = frozenset(filter(offers, change.keys))
            if isinstance(change, Added):
                await router.provide(keys)
            else:
                await router.stop_providing(keys)
            if first:
                first = False
                task_status.started()
