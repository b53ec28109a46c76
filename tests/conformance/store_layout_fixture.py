"""The layout store for the conformance suite."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from tests.fakes.images import Image, Layout

from peili.oci.digest import Digest
from peili.store.layout import LayoutStore
from peili.store.protocol import Store


class LayoutUnderTest:
    """An OCI image layout, written as tools write it."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory)
        self._images: dict[str, Image] = {}

    async def add_image(self, name: str, image: Image, *, without: Collection[Digest] = ()) -> None:
        self._images[name] = image
        self.layout.add(name, image, without=without)

    async def remove_image(self, name: str) -> None:
        removed = self._images.pop(name)
        named = {digest for image in self._images.values() for digest in image.blobs}
        self.layout.remove(name)
        self.layout.remove_blobs(set(removed.blobs) - named)

    async def remove_blob(self, digest: Digest) -> None:
        self.layout.remove_blobs([digest])

    async def truncate_blob(self, digest: Digest, size: int) -> None:
        os.truncate(self.layout.path(digest), size)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Store]:
        store = LayoutStore(self.layout.directory)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            yield store
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def layout_under_test(directory: Path) -> AsyncIterator[LayoutUnderTest]:
    yield LayoutUnderTest(directory)
