"""containerd's store for the conformance suite: on the fake everywhere, on each real version that is here."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from peili.oci.digest import Digest
from peili.oci.reference import Reference
from peili.store.containerd import ContainerdStore
from peili.store.protocol import Store
from tests.conformance.store_under_test import PATIENCE, Factory
from tests.fakes import containerd as fakes
from tests.fakes import containerd_process
from tests.fakes.containerd import NAMESPACE, FakeContainerd
from tests.fakes.containerd_process import RealContainerd, Registry, Tap, binaries, binary_id
from tests.fakes.images import Image
from tests.fakes.ingests import FileIncoming, Incoming

NAME = "registry.test/team/app:1"


class _Running:
    """The store that runs now, if one does."""

    def __init__(self) -> None:
        self._store: Store | None = None

    @asynccontextmanager
    async def open(self, socket: Path) -> AsyncIterator[Store]:
        store = ContainerdStore(socket)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE):
                await nursery.start(store.run)
            self._store = store
            yield store
            self._store = None
            nursery.cancel_scope.cancel()

    async def has_heard(self, name: str, image: Image, without: Collection[Digest]) -> None:
        """Wait until the tag leads there: no change of keys tells that a tag moved."""
        if image.descriptor.digest in without:
            return
        with trio.fail_after(PATIENCE):
            while self._store is not None and self._store.resolve(Reference.parse(name)) != image.descriptor:
                await trio.sleep(0.002)


class FakeUnderTest:
    """The fake, as containerd 1.6 behaves: no events but those of images."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake
        self._running = _Running()
        self._images: dict[str, Image] = {}

    async def add_image(self, name: str, image: Image, *, without: Collection[Digest] = ()) -> None:
        self._images[name] = image
        for digest, content in image.blobs.items():
            if digest not in without:
                self._fake.add_blob(content)
        described = image.descriptor
        self._fake.add_image(name, described.media_type, str(described.digest), described.size)
        await self._running.has_heard(name, image, without)

    async def remove_image(self, name: str) -> None:
        removed = self._images.pop(name)
        named = {digest for image in self._images.values() for digest in image.blobs}
        self._fake.remove_image(name)
        for digest in set(removed.blobs) - named:
            await self.remove_blob(digest)

    async def remove_blob(self, digest: Digest) -> None:
        self._fake.content.pop(str(digest), None)
        self._fake.path(str(digest)).unlink(missing_ok=True)

    async def truncate_blob(self, digest: Digest, size: int) -> None:
        os.truncate(self._fake.path(str(digest)), size)

    @asynccontextmanager
    async def receiving(self, image: Image) -> AsyncIterator[Incoming]:
        (layer,) = image.layers
        incoming = FileIncoming(self._fake.root, NAMESPACE, layer, image.blobs[layer.digest])
        try:
            yield incoming
        finally:
            await incoming.kill()
        if self._fake.path(str(layer.digest)).exists():
            self._fake.content[str(layer.digest)] = layer.size

    def running(self) -> AbstractAsyncContextManager[Store]:
        return self._running.open(self._fake.socket)


class RealIncoming:
    """A layer that `ctr content fetch` pulls from a registry on loopback, with the keys that CRI pulls have too."""

    def __init__(self, containerd: RealContainerd, registry: Registry, image: Image) -> None:
        (self.descriptor,) = image.layers
        self.content = image.blobs[self.descriptor.digest]
        self._containerd = containerd
        self._tap = registry.taps[str(self.descriptor.digest)] = Tap()
        self._fetch: subprocess.Popen[bytes] | None = None
        containerd.use_registry(registry)

    async def begin(self) -> None:
        binary, hosts = self._containerd.binary.with_name("ctr"), str(self._containerd.hosts)
        words = [str(binary), "--address", str(self._containerd.socket), "-n", "k8s.io", "content", "fetch"]
        self._fetch = subprocess.Popen(
            [*words, "--hosts-dir", hosts, NAME], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with trio.fail_after(PATIENCE):
            while not self._data().exists():
                await trio.sleep(0.005)

    async def arrive(self, count: int) -> None:
        self._tap.allow(count)

    async def finish(self) -> None:
        self._tap.allow(len(self.content))
        assert await self._ended() == 0

    async def fail(self) -> None:
        self._tap.cut()
        assert await self._ended() != 0

    async def kill(self) -> None:
        assert self._fetch is not None
        self._fetch.kill()
        await self._ended()

    async def end(self) -> None:
        if self._fetch is not None and self._fetch.poll() is None:
            await self.kill()

    async def _ended(self) -> int:
        assert self._fetch is not None
        with trio.fail_after(PATIENCE):
            return await trio.to_thread.run_sync(self._fetch.wait)

    def _data(self) -> Path:
        reference = f"k8s.io/1/layer-{self.descriptor.digest}".encode()
        return self._containerd.content / "ingest" / hashlib.sha256(reference).hexdigest() / "data"


class RealUnderTest:
    """A real containerd, changed with its own `ctr`."""

    def __init__(self, containerd: RealContainerd) -> None:
        self._containerd = containerd
        self._running = _Running()

    async def add_image(self, name: str, image: Image, *, without: Collection[Digest] = ()) -> None:
        await trio.to_thread.run_sync(self._containerd.import_image, name, image)
        for digest in without:
            await self.remove_blob(digest)
        await self._running.has_heard(name, image, without)

    async def remove_image(self, name: str) -> None:
        await self._ctr("images", "rm", "--sync", name)

    async def remove_blob(self, digest: Digest) -> None:
        await self._ctr("content", "rm", str(digest))

    async def truncate_blob(self, digest: Digest, size: int) -> None:
        os.truncate(self._containerd.path(digest), size)

    @asynccontextmanager
    async def receiving(self, image: Image) -> AsyncIterator[Incoming]:
        with Registry() as registry:
            registry.add("team/app:1", image)
            incoming = RealIncoming(self._containerd, registry, image)
            try:
                await incoming.begin()
                yield incoming
            finally:
                await incoming.end()

    def running(self) -> AbstractAsyncContextManager[Store]:
        return self._running.open(self._containerd.socket)

    async def _ctr(self, *words: str) -> None:
        await trio.to_thread.run_sync(self._containerd.ctr, *words)


@asynccontextmanager
async def fake_under_test(directory: Path) -> AsyncIterator[FakeUnderTest]:
    directory.mkdir()
    with fakes.running(directory) as fake:
        yield FakeUnderTest(fake)


@asynccontextmanager
async def real_under_test(directory: Path, *, binary: Path) -> AsyncIterator[RealUnderTest]:
    with containerd_process.running(binary, directory, cri=False) as containerd:
        await containerd.wait_answers()
        yield RealUnderTest(containerd)


def _real(binary: Path) -> object:
    factory: Factory = partial(real_under_test, binary=binary)
    return pytest.param(factory, id=f"containerd-{binary_id(binary)}", marks=[pytest.mark.containerd])


STORES: list[object] = [pytest.param(fake_under_test, id="containerd-fake"), *map(_real, binaries())]
