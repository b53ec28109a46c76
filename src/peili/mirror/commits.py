"""What this node's containerd receives and commits, as its store sees it."""

from __future__ import annotations

from collections.abc import Callable

from peili.oci.digest import Digest, InvalidDigest
from peili.store.protocol import Added, Store


def is_received(store: Store, digest: Digest) -> bool:
    """Whether this node's containerd has begun to write this digest: it does so before it asks for it."""
    blob = store.growing(digest)
    if blob is None:
        return False
    blob.close()
    return True


async def watch_commits(store: Store, committed: Callable[[Digest], None]) -> None:
    """Report each digest that the store gains, the ones that it holds at first among them, until cancelled."""
    async with store.changes() as changes:
        async for change in changes:
            if isinstance(change, Added):
                for key in change.keys:
                    try:
                        committed(Digest.parse(key))
                    except InvalidDigest:
                        continue  # a tag
