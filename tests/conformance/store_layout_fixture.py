"""The layout store for the conformance suite."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from peili.demo.ingest import Ingest
from peili.oci.digest import Digest
from peili.store.layout import LayoutStore
from peili.store.protocol import Store
from tests.fakes.images import Image, Layout
from tests.fakes.ingests import Incoming


class LayoutIncoming:
    """A layer that the demo's writer receives."""

    def __init__(self, layout: Layout, image: Image) -> None:
        (self.descriptor,) = image.layers
        self.content = image.blobs[self.descriptor.digest]
        self._ingest = Ingest(layout.directory, self.descriptor)

    async def arrive(self, count: int) -> None:
        self._ingest.write(self.content[self._ingest.offset : count])

    async def finish(self) -> None:
        self._ingest.write(self.content[self._ingest.offset :])
        self._ingest.commit()

    async def fail(self) -> None:
        self._ingest.abort()

    async def kill(self) -> None:
        self._ingest.close()


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
    async def receiving(self, image: Image) -> AsyncIterator[Incoming]:
        incoming = LayoutIncoming(self.layout, image)
        try:
            yield incoming
        finally:
            await incoming.kill()

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
