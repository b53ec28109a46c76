"""The store on real containerds: each version that is here (see tests/fakes/containerd_process.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from peili.containerd.cri import Cri
from peili.demo.images import Image, build_image, build_index
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.store.containerd import ContainerdStore
from peili.store.protocol import Kind
from tests.fakes.containerd_process import RealContainerd, Registry, binaries, binary_id, running

pytestmark = [pytest.mark.containerd, pytest.mark.slow]
PATIENCE = 60.0  # seconds until a test is given up
SECONDS = 5.0  # what "within seconds" means
NAME = "registry.test/team/app:1"


@pytest.fixture(params=binaries(), ids=binary_id)
def containerd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealContainerd]:
    with running(request.param, tmp_path / "containerd") as containerd:
        yield containerd


@asynccontextmanager
async def store_of(containerd: RealContainerd) -> AsyncIterator[ContainerdStore]:
    store = ContainerdStore(containerd.socket)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for what another process does."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


def offered(store: ContainerdStore, name: object) -> bool:
    return Key(str(name)) in frozenset(store.keys())


def keys_of(image: Image, *names: str) -> set[Key]:
    return {Key(str(digest)) for digest in image.blobs} | {Key(name) for name in names}


async def test_an_import_into_a_fresh_containerd_is_offered_and_can_be_opened(containerd: RealContainerd) -> None:
    await containerd.wait_ready()
    image = build_index("fresh")
    async with store_of(containerd) as store:
        assert store.keys() == frozenset()
        assert not (containerd.content / "blobs" / "sha256").exists()
        await trio.to_thread.run_sync(containerd.import_image, NAME, image)
        await until(lambda: store.keys() == keys_of(image, NAME))
        assert store.resolve(Reference.parse(NAME)) == image.descriptor
        for digest, content in image.blobs.items():
            with await store.open(digest) as blob:
                assert blob.size == len(content)
        statistics = store.statistics()
        assert statistics.answering
        assert statistics.problem == ""
        assert statistics.bytes == image.size
        assert statistics.keys[Kind.INDEX] == 1
        assert statistics.keys[Kind.LAYER] == 4


async def test_a_pull_through_cri_is_offered_with_its_tag_and_a_removal_withdraws_it(
    containerd: RealContainerd,
) -> None:
    await containerd.wait_ready()
    image = build_image("pulled", layer_sizes=[1000] * 12)
    with Registry() as registry, Cri(containerd.socket) as cri:
        registry.add("team/app:1", image)
        containerd.use_registry(registry)
        async with store_of(containerd) as store, store.changes() as changes:
            assert (await anext(changes)).keys == frozenset()
            await cri.pull(NAME)
            await until(lambda: store.keys() == keys_of(image, NAME))
            await cri.remove(NAME)
            await until(lambda: not offered(store, NAME), 1.0)
            await until(lambda: not store.keys())


async def test_only_what_the_namespace_lists_is_offered(containerd: RealContainerd) -> None:
    await containerd.wait_ready()
    before, while_running = build_image("other before"), build_image("other while")
    mine = build_image("mine")
    containerd.import_image("registry.test/other:before", before, namespace="moby")
    async with store_of(containerd) as store:
        assert store.keys() == frozenset()
        await trio.to_thread.run_sync(containerd.import_image, "registry.test/other:while", while_running, "moby")
        await trio.to_thread.run_sync(containerd.import_image, NAME, mine)
        await until(lambda: store.keys() == keys_of(mine, NAME))


async def test_what_another_namespace_holds_already_is_offered_once_this_one_lists_it(
    containerd: RealContainerd,
) -> None:
    await containerd.wait_ready()
    image = build_image("shared")
    containerd.import_image("registry.test/other:1", image, namespace="moby")
    async with store_of(containerd) as store:
        assert store.keys() == frozenset()
        await trio.to_thread.run_sync(containerd.import_image, NAME, image)  # no file is written
        await until(lambda: store.keys() == keys_of(image, NAME))
        with Cri(containerd.socket) as cri:
            await cri.remove(NAME)  # no file is deleted
        await until(lambda: not offered(store, NAME), 1.0)
        await until(lambda: not store.keys(), 15.0)


async def test_a_restart_of_containerd_keeps_the_keys_and_news_are_seen_after_it(
    containerd: RealContainerd,
) -> None:
    await containerd.wait_ready()
    first, second = build_image("first"), build_image("second")
    containerd.import_image(NAME, first)
    async with store_of(containerd) as store:
        await until(lambda: store.keys() == keys_of(first, NAME))  # once ctr's own index is collected
        await trio.to_thread.run_sync(containerd.stop)
        await until(lambda: not store.statistics().answering)
        assert str(containerd.socket) in store.statistics().problem or "stopping" in store.statistics().problem
        assert store.keys() == keys_of(first, NAME)
        with await store.open(next(iter(first.blobs))) as blob:
            assert blob.size > 0
        containerd.start()
        await containerd.wait_ready()
        await until(lambda: store.statistics().answering, 10.0)
        await trio.to_thread.run_sync(containerd.import_image, "registry.test/second:1", second)
        await until(lambda: store.keys() == keys_of(first, NAME) | keys_of(second, "registry.test/second:1"))


async def test_a_store_may_start_before_containerd(containerd: RealContainerd) -> None:
    image = build_image("early")
    async with store_of(containerd) as store:
        await containerd.wait_ready()
        await trio.to_thread.run_sync(containerd.import_image, NAME, image)
        await until(lambda: store.keys() == keys_of(image, NAME))


async def test_layers_that_are_missing_are_not_offered(containerd: RealContainerd) -> None:
    await containerd.wait_ready()
    image = build_image("discarded")
    containerd.import_image(NAME, image)
    layer = image.layers[0].digest
    async with store_of(containerd) as store:
        assert offered(store, layer)
        await trio.to_thread.run_sync(containerd.ctr, "content", "rm", str(layer))
        await until(lambda: not offered(store, layer))
        assert store.keys() == keys_of(image, NAME) - {Key(str(layer))}
        assert store.descriptor(Digest.parse(str(layer))) is None
