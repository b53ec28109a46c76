"""Counts what this node's containerd fetched upstream after no peer could give it.

Peili is not on that path; but what was missed here and then appears in the store came from there.
"""

from __future__ import annotations

from collections.abc import Callable

from peili.observe.recent import Recent
from peili.oci.digest import Digest, InvalidDigest
from peili.oci.key import Key
from peili.store.protocol import Added, Store


async def watch_upstream(store: Store, recent: Recent, missed: Callable[[int], None]) -> None:
    """Follow the store and report the size of each blob that was missed before, until cancelled."""
    async with store.changes() as changes:
        async for change in changes:
            if isinstance(change, Added):
                for key in change.keys:
                    _account(store, recent, missed, key)


def _account(store: Store, recent: Recent, missed: Callable[[int], None], key: Key) -> None:
    try:
        digest = Digest.parse(key)
    except InvalidDigest:
        return  # a tag
    descriptor = store.descriptor(digest)
    if descriptor is not None and recent.arrived(digest, descriptor.size):
        missed(descriptor.size)
