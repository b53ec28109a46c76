"""What the conformance suite asks of a store's fixture, and how it waits for a store.

A store joins the suite with a function that makes a fresh fixture: `(directory) -> async context manager of
StoreUnderTest`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import trio

from peili.oci.digest import Digest
from peili.oci.key import Key, digest_key
from peili.store.protocol import Added, Store
from tests.fakes.images import Image
from tests.fakes.ingests import Incoming

PATIENCE = 20.0  # seconds until a test is given up; what it waits for takes well below one


class StoreUnderTest(Protocol):
    """A real store's content, changed from outside as people and runtimes do it."""

    async def add_image(self, name: str, image: Image, *, without: Collection[Digest] = ()) -> None:
        """Add an image under this name, or move the name; the content in `without` is not there afterwards."""
        ...

    async def remove_image(self, name: str) -> None:
        """Remove this name, and the content that nothing else here names."""
        ...

    async def remove_blob(self, digest: Digest) -> None:
        """Remove the content of a digest, though an image names it."""
        ...

    async def truncate_blob(self, digest: Digest, size: int) -> None:
        """Cut the bytes of a digest off behind the store's back."""
        ...

    def receiving(self, image: Image) -> AbstractAsyncContextManager[Incoming]:
        """Begin to receive the image's only layer; the end of the block ends it in any case."""
        ...

    def running(self) -> AbstractAsyncContextManager[Store]:
        """A store over this content whose `run` has started; the end of the block cancels it. One at a time."""
        ...


Factory = Callable[[Path], AbstractAsyncContextManager[StoreUnderTest]]


def keys_of(digests: Collection[Digest]) -> frozenset[Key]:
    return frozenset(map(digest_key, digests))


async def wait_keys(store: Store, *, there: Collection[Key] = (), gone: Collection[Key] = ()) -> None:
    """Read the store's changes until it holds all of these keys and none of those."""
    held: set[Key] = set()
    with trio.fail_after(PATIENCE):
        async with store.changes() as changes:
            async for change in changes:
                if isinstance(change, Added):
                    held |= change.keys
                else:
                    held -= change.keys
                if held.issuperset(there) and held.isdisjoint(gone):
                    return
