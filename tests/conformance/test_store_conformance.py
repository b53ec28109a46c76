"""What every Store does, whatever lies underneath."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.media_types import OCI_INDEX, OCI_MANIFEST
from peili.oci.reference import Reference
from peili.store.protocol import Added, Kind, NotInStore, Removed, StoreStatistics
from tests.conformance.store_layout_fixture import layout_under_test
from tests.conformance.store_under_test import PATIENCE, Factory, StoreUnderTest, keys_of, wait_keys
from tests.fakes.images import Compression, build_image, build_index, contents_by_kind

NAME = "registry.example:5000/team/nested/app:1.0"
TAG = Key(NAME)
OTHER = "docker.io/library/other:latest"
INDEX = build_index("conformance", platforms=("linux/amd64", "linux/arm64/v8"))
IMAGE = build_image("one platform", compression=Compression.ZSTD)

STORES: list[object] = [pytest.param(layout_under_test, id="layout")]
# containerd's fixture names its own stores, marked `containerd` where they need a real one: a list of pytest.param.
if importlib.util.find_spec("tests.conformance.store_containerd_fixture"):
    STORES += importlib.import_module("tests.conformance.store_containerd_fixture").STORES


@pytest.fixture(params=STORES)
async def under_test(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    factory: Factory = request.param
    async with factory(tmp_path / "store") as fixture:
        yield fixture


async def test_an_empty_store_says_so_and_takes_the_first_image(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store, store.changes() as changes:
        assert await anext(changes) == Added(frozenset())
        assert store.keys() == frozenset()
        await under_test.add_image(NAME, INDEX)
        await wait_keys(store, there=[TAG, *keys_of(INDEX.blobs)])


async def test_the_first_item_is_everything(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    await under_test.add_image(OTHER, IMAGE)
    async with under_test.running() as store, store.changes() as changes:
        first = await anext(changes)
        assert first == Added(frozenset(store.keys()))
        assert first.keys == {TAG, Key(OTHER)} | keys_of(INDEX.blobs) | keys_of(IMAGE.blobs)


async def test_two_readers_each_get_everything(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, IMAGE)
    async with under_test.running() as store, store.changes() as one, store.changes() as two:
        await under_test.add_image(OTHER, IMAGE)
        await wait_keys(store, there=[Key(OTHER)])
        assert Key(OTHER) in (await anext(one)).keys
        assert Key(OTHER) in (await anext(two)).keys


async def test_an_image_added_while_running_appears_by_tag_and_by_digest(under_test: StoreUnderTest) -> None:
    await under_test.add_image(OTHER, IMAGE)
    async with under_test.running() as store:
        await under_test.add_image(NAME, INDEX)
        await wait_keys(store, there=[TAG, *keys_of(INDEX.blobs)])
        assert store.resolve(Reference.parse(NAME)) == INDEX.descriptor
        assert store.resolve(Reference.parse(f"{NAME}@{IMAGE.descriptor.digest}")) == INDEX.descriptor


async def test_what_is_not_there_is_not_found(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, IMAGE)
    async with under_test.running() as store:
        absent = Digest.of(b"absent")
        assert store.descriptor(absent) is None
        assert store.resolve(Reference.parse("registry.example/team/nested/app:1.0")) is None
        assert store.resolve(Reference.parse(f"registry.example:5000/team/nested/app@{absent}")) is None
        with pytest.raises(NotInStore):
            await store.open(absent)


async def test_a_removed_image_vanishes(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    await under_test.add_image(OTHER, IMAGE)
    async with under_test.running() as store:
        await under_test.remove_image(NAME)
        await wait_keys(store, gone=[TAG, *keys_of(INDEX.blobs)])
        assert store.resolve(Reference.parse(NAME)) is None
        assert set(store.keys()) == {Key(OTHER)} | keys_of(IMAGE.blobs)


async def test_a_tag_moves_to_a_new_target(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    async with under_test.running() as store:
        await under_test.add_image(NAME, IMAGE)
        await wait_keys(store, there=[TAG, *keys_of(IMAGE.blobs)])
        assert store.resolve(Reference.parse(NAME)) == IMAGE.descriptor


async def test_a_target_keeps_the_other_of_its_two_tags(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, IMAGE)
    await under_test.add_image(OTHER, IMAGE)
    async with under_test.running() as store:
        await under_test.remove_image(NAME)
        await wait_keys(store, there=[Key(OTHER), *keys_of(IMAGE.blobs)], gone=[TAG])
        assert store.resolve(Reference.parse(OTHER)) == IMAGE.descriptor


async def test_a_foreign_platform_that_is_not_here_is_not_offered(under_test: StoreUnderTest) -> None:
    own, foreign = INDEX.parts
    missing = keys_of(foreign.blobs)
    await under_test.add_image(NAME, INDEX, without=foreign.blobs.keys())
    async with under_test.running() as store:
        assert set(store.keys()) == {TAG} | (keys_of(INDEX.blobs) - missing)
        assert store.descriptor(foreign.descriptor.digest) is None
        with pytest.raises(NotInStore):
            await store.open(foreign.layers[0].digest)
        assert store.descriptor(own.layers[0].digest) == own.layers[0]


async def test_layers_that_were_discarded_are_not_offered(under_test: StoreUnderTest) -> None:
    layers = [layer.digest for layer in IMAGE.layers]
    await under_test.add_image(NAME, IMAGE, without=layers)
    async with under_test.running() as store:
        assert set(store.keys()) == {TAG} | (keys_of(IMAGE.blobs) - keys_of(layers))


async def test_a_layer_that_is_deleted_vanishes_and_comes_back(under_test: StoreUnderTest) -> None:
    layer = IMAGE.layers[0]
    await under_test.add_image(NAME, IMAGE)
    async with under_test.running() as store:
        await under_test.remove_blob(layer.digest)
        await wait_keys(store, there=[TAG], gone=keys_of([layer.digest]))
        await under_test.add_image(NAME, IMAGE)
        await wait_keys(store, there=[TAG, *keys_of([layer.digest])])
        assert store.descriptor(layer.digest) == layer


async def test_a_tag_without_its_manifest_is_not_offered(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX, without=[INDEX.descriptor.digest])
    async with under_test.running() as store:
        assert TAG not in set(store.keys())
        assert store.resolve(Reference.parse(NAME)) is None


async def test_a_truncated_blob_is_not_offered(under_test: StoreUnderTest) -> None:
    layer = IMAGE.layers[0]
    await under_test.add_image(NAME, IMAGE)
    await under_test.truncate_blob(layer.digest, layer.size - 1)
    async with under_test.running() as store:
        assert set(store.keys()) == {TAG} | (keys_of(IMAGE.blobs) - keys_of([layer.digest]))


async def test_a_truncated_manifest_takes_its_tag_with_it(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, IMAGE)
    await under_test.truncate_blob(IMAGE.descriptor.digest, 0)
    async with under_test.running() as store:
        assert TAG not in set(store.keys())
        assert store.descriptor(IMAGE.descriptor.digest) is None


async def test_a_blob_that_is_truncated_while_running_cannot_be_opened(under_test: StoreUnderTest) -> None:
    layer = IMAGE.layers[0]
    await under_test.add_image(NAME, IMAGE)
    async with under_test.running() as store:
        await under_test.truncate_blob(layer.digest, layer.size - 1)
        with pytest.raises(NotInStore):
            await store.open(layer.digest)


async def test_an_open_blob_outlives_its_deletion(under_test: StoreUnderTest) -> None:
    layer = IMAGE.layers[0]
    await under_test.add_image(NAME, IMAGE)
    async with under_test.running() as store:
        with await store.open(layer.digest) as blob:
            await under_test.remove_image(NAME)
            await wait_keys(store, gone=[TAG, *keys_of(IMAGE.blobs)])
            assert blob.descriptor == layer
            assert os.pread(blob.fileno, blob.size + 1, 0) == IMAGE.blobs[layer.digest]
        with pytest.raises(NotInStore):
            await store.open(layer.digest)


async def test_every_blob_opens_with_its_bytes(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    async with under_test.running() as store:
        for digest, content in INDEX.blobs.items():
            with await store.open(digest) as blob:
                assert os.pread(blob.fileno, blob.size + 1, 0) == content


async def test_media_types_and_sizes_are_those_of_the_image(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    await under_test.add_image(OTHER, IMAGE)
    async with under_test.running() as store:
        assert store.descriptor(INDEX.descriptor.digest) == INDEX.descriptor
        for part in (*INDEX.parts, IMAGE):
            assert part.config is not None
            for expected in (part.descriptor, part.config, *part.layers):
                assert store.descriptor(expected.digest) == expected
    assert (INDEX.descriptor.media_type, IMAGE.descriptor.media_type) == (OCI_INDEX, OCI_MANIFEST)


async def test_a_blob_of_no_bytes_is_content_too(under_test: StoreUnderTest) -> None:
    image = build_image("empty", layer_sizes=(100,), compression=Compression.NONE, empty_layer=True)
    empty = Digest.of(b"")
    await under_test.add_image(NAME, image)
    async with under_test.running() as store:
        assert set(store.keys()) == {TAG} | keys_of(image.blobs)
        with await store.open(empty) as blob:
            assert blob.size == 0
            assert os.pread(blob.fileno, 1, 0) == b""


async def test_statistics_count_what_is_offered(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    async with under_test.running() as store:
        found = store.statistics()
    kinds = list(contents_by_kind(INDEX).values())
    expected = {kind: kinds.count(kind) for kind in Kind} | {Kind.TAG: 1}
    assert found == StoreStatistics(
        found.kind, found.detail, True, True, "", expected, INDEX.size, found.download_slots
    )
    assert found.detail


async def test_everything_is_offered_again_after_a_restart(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    async with under_test.running() as store:
        before = set(store.keys())
    await under_test.add_image(OTHER, IMAGE)
    async with under_test.running() as store:
        assert set(store.keys()) == before | {Key(OTHER)} | keys_of(IMAGE.blobs)


async def test_a_reader_that_sleeps_gets_the_difference(under_test: StoreUnderTest) -> None:
    await under_test.add_image(NAME, INDEX)
    async with under_test.running() as store, store.changes() as changes:
        await anext(changes)
        await under_test.add_image(OTHER, IMAGE)
        await wait_keys(store, there=[Key(OTHER), *keys_of(IMAGE.blobs)])
        await under_test.remove_image(NAME)
        await wait_keys(store, gone=[TAG, *keys_of(INDEX.blobs)])
        with trio.fail_after(PATIENCE):
            read = [await anext(changes), await anext(changes)]
    assert read == [
        Removed(frozenset({TAG}) | keys_of(INDEX.blobs)),
        Added(frozenset({Key(OTHER)}) | keys_of(IMAGE.blobs)),
    ]
