"""What a pull through CRI leaves to be followed, on each real containerd that is here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from peili.containerd.cri import Cri
from peili.containerd.errors import ContainerdError
from peili.demo.images import Compression, build_image
from peili.http.client import Client
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.oci.digest import Digest
from peili.store.containerd import ContainerdStore
from peili.store.protocol import GrowingBlob
from tests.fakes.containerd_process import RealContainerd, Registry, Tap, binaries, binary_id, running
from tests.fakes.ingests import MEBIBYTE
from tests.unit.http.loopback import serving

pytestmark = [pytest.mark.containerd, pytest.mark.slow]
PATIENCE = 60.0
NAME = "registry.test/team/app:1"
IMAGE = build_image("growing real", layer_sizes=(6 * MEBIBYTE + 300_000,), compression=Compression.GZIP)
LAYER = IMAGE.layers[0]
CONTENT = IMAGE.blobs[LAYER.digest]


@pytest.fixture(params=binaries(), ids=binary_id)
def containerd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealContainerd]:
    with running(request.param, tmp_path / "containerd") as containerd:
        yield containerd


@pytest.fixture
def registry(containerd: RealContainerd) -> Iterator[Registry]:
    with Registry() as registry:
        registry.add("team/app:1", IMAGE)
        registry.taps[str(LAYER.digest)] = Tap()
        containerd.use_registry(registry)
        yield registry


@asynccontextmanager
async def store_of(containerd: RealContainerd) -> AsyncIterator[ContainerdStore]:
    store = ContainerdStore(containerd.socket)
    await containerd.wait_ready()
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


async def appears(store: ContainerdStore, digest: Digest) -> GrowingBlob:
    with trio.fail_after(PATIENCE):
        while (blob := store.growing(digest)) is None:
            await trio.sleep(0.005)
    return blob


async def pull(containerd: RealContainerd) -> None:
    with Cri(containerd.socket) as cri:
        await cri.pull(NAME)


async def test_a_layer_is_sent_on_while_it_is_pulled(containerd: RealContainerd, registry: Registry) -> None:
    tap = registry.taps[str(LAYER.digest)]
    async with store_of(containerd) as store, trio.open_nursery() as nursery:

        async def answer(exchange: Exchange) -> None:
            with await appears(store, LAYER.digest) as blob:
                sink = await exchange.start(200, Headers(), blob.total)
                await sink.send_growing(blob, 0, blob.total, stall_timeout=PATIENCE)

        nursery.start_soon(pull, containerd)
        client = Client()
        async with serving(answer) as served:
            response = await client.open(
                served.address, "GET", "/", Headers(), connect_timeout=5, head_timeout=PATIENCE
            )
            async with response:
                assert response.content_length == LAYER.size
                body = bytearray()
                for allowed in range(MEBIBYTE, LAYER.size + MEBIBYTE, MEBIBYTE):
                    tap.allow(allowed)
                    with trio.fail_after(PATIENCE):
                        while len(body) < min(allowed, LAYER.size):
                            body += await response.source.receive()
        await client.aclose()
        assert LAYER.digest.matches(bytes(body))
    assert containerd.path(LAYER.digest).read_bytes() == CONTENT


async def test_between_the_commit_and_the_index_the_layer_is_never_missing(
    containerd: RealContainerd, registry: Registry
) -> None:
    async with store_of(containerd) as store, trio.open_nursery() as nursery:
        nursery.start_soon(pull, containerd)
        (await appears(store, LAYER.digest)).close()
        registry.taps[str(LAYER.digest)].allow(LAYER.size)
        missing = 0
        with trio.fail_after(PATIENCE):
            while store.descriptor(LAYER.digest) is None:
                blob = store.growing(LAYER.digest)
                missing += blob is None
                if blob is not None:
                    blob.close()
                await trio.lowlevel.checkpoint()
        assert missing == 0


async def test_a_pull_that_fails_takes_its_ingest_away(containerd: RealContainerd, registry: Registry) -> None:
    tap = registry.taps[str(LAYER.digest)]

    async def fails() -> None:
        with pytest.raises(ContainerdError):
            await pull(containerd)

    async with store_of(containerd) as store, trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        with await appears(store, LAYER.digest) as blob:
            tap.allow(3 * MEBIBYTE)
            assert await blob.wait(2 * MEBIBYTE, PATIENCE)
            tap.cut()
            with trio.fail_after(PATIENCE):
                while not blob.vanished():
                    await blob.wait(blob.size(), 1.0)
            size = blob.size()
            assert os.pread(blob.fileno, size, 0) == CONTENT[:size]
            assert not blob.committed()
        assert store.growing(LAYER.digest) is None


async def test_what_another_namespace_receives_is_not_ours(containerd: RealContainerd, registry: Registry) -> None:
    words = [str(containerd.binary.with_name("ctr")), "--address", str(containerd.socket), "-n", "moby"]
    async with store_of(containerd) as store:
        fetch = subprocess.Popen(
            [*words, "content", "fetch", "--hosts-dir", str(containerd.hosts), NAME],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with trio.fail_after(PATIENCE):
                while not list(containerd.content.glob("ingest/*/data")):
                    await trio.sleep(0.005)
            assert store.growing(LAYER.digest) is None
            assert list(store.ingests()) == []
        finally:
            fetch.kill()
            await trio.to_thread.run_sync(fetch.wait)
