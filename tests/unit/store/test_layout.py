from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.media_types import OCTET_STREAM
from peili.oci.reference import Reference
from peili.store.inotify import CannotWatch, Polling, Watcher
from peili.store.layout import LayoutStore
from peili.store.protocol import Kind, NotInStore, Store
from tests.conformance.store_under_test import PATIENCE, keys_of, wait_keys
from tests.fakes.images import OCI_NAME, Compression, Layout, build_image, build_index, compress, describe, index_of

NAME = "registry.example/team/app:1"
TAG = Key(NAME)
IMAGE = build_image("layout")
INDEX = build_index("layout index")
LAYER = IMAGE.layers[0]
LONG_AGO = 1_000_000_000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@asynccontextmanager
async def running(store: LayoutStore) -> AsyncIterator[LayoutStore]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


async def wait_until(store: LayoutStore, condition: Callable[[], bool]) -> None:
    """Look at the store whenever all else is waiting, until the condition holds."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_an_image_may_be_named_by_the_specified_annotation(layout: Layout) -> None:
    layout.add(NAME, INDEX, annotation=OCI_NAME)
    async with running(LayoutStore(layout.directory)) as store:
        assert store.resolve(Reference.parse(NAME)) == INDEX.descriptor


async def test_a_bare_tag_names_no_image_but_its_content_is_offered(layout: Layout) -> None:
    layout.add("latest", IMAGE, annotation=OCI_NAME)
    async with running(LayoutStore(layout.directory)) as store:
        assert set(store.keys()) == keys_of(IMAGE.blobs)
        assert store.descriptor(LAYER.digest) == LAYER


async def test_an_index_within_an_index_is_followed(layout: Layout) -> None:
    nested = index_of([index_of([INDEX])])
    layout.add(NAME, nested)
    async with running(LayoutStore(layout.directory)) as store:
        assert set(store.keys()) == {TAG} | keys_of(nested.blobs)
        assert store.statistics().keys[Kind.LAYER] == 4


async def test_the_later_of_two_entries_with_one_name_counts(layout: Layout) -> None:
    layout.add(NAME, IMAGE)
    layout.add("registry.example/other:1", INDEX)
    content = json.loads((layout.directory / "index.json").read_bytes())
    content["manifests"][1]["annotations"] = content["manifests"][0]["annotations"]
    (layout.directory / "index.json").write_text(json.dumps(content))
    async with running(LayoutStore(layout.directory)) as store:
        assert store.resolve(Reference.parse(NAME)) == INDEX.descriptor


async def test_blobs_that_no_manifest_names_are_offered(layout: Layout) -> None:
    old = layout.write_blob(b"old")
    os.utime(layout.path(old), (LONG_AGO, LONG_AGO))
    sha512 = Digest("sha512", Digest.parse("sha512:" + "0" * 128).hex)
    new = Digest.of(b"new")
    async with running(LayoutStore(layout.directory)) as store:
        assert store.descriptor(old) == Descriptor(old, OCTET_STREAM, 3)
        layout.write_blob(b"new")
        layout.write_blob(b"another algorithm", sha512)
        await wait_keys(store, there=keys_of([new, sha512]))
        assert store.statistics().keys[Kind.UNKNOWN] == 3


async def test_a_manifest_that_no_index_names_any_more_keeps_its_type(layout: Layout) -> None:
    layout.add(NAME, IMAGE)
    async with running(LayoutStore(layout.directory)) as store:
        layout.remove(NAME)
        await wait_keys(store, gone=[TAG])
        assert store.descriptor(IMAGE.descriptor.digest) == IMAGE.descriptor
    os.utime(layout.path(IMAGE.descriptor.digest), (LONG_AGO, LONG_AGO))
    async with running(LayoutStore(layout.directory)) as store:
        assert store.descriptor(IMAGE.descriptor.digest) == IMAGE.descriptor


async def test_files_that_are_no_blobs_are_left_alone(layout: Layout, tmp_path: Path) -> None:
    blobs = layout.directory / "blobs"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (blobs / "sha256" / "partial").write_bytes(b"x")
    (blobs / "sha256" / ("A" * 64)).write_bytes(b"x")
    (blobs / "md5").mkdir()
    (blobs / "md5" / ("0" * 32)).write_bytes(b"x")
    (blobs / "sha256" / ("1" * 64)).mkdir()
    (blobs / "sha256" / ("2" * 64)).symlink_to(secret)
    os.mkfifo(blobs / "sha256" / ("3" * 64))
    async with running(LayoutStore(layout.directory)) as store:
        assert store.keys() == frozenset()


async def test_a_blob_replaced_by_a_link_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    layout.add(NAME, IMAGE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(IMAGE.blobs[LAYER.digest])
    async with running(LayoutStore(layout.directory)) as store:
        layout.path(LAYER.digest).unlink()
        layout.path(LAYER.digest).symlink_to(elsewhere)
        with pytest.raises(NotInStore):
            await store.open(LAYER.digest)
        assert store.descriptor(LAYER.digest) is None


async def test_a_named_blob_written_in_place_is_offered_when_it_is_whole(layout: Layout) -> None:
    content = IMAGE.blobs[LAYER.digest]
    layout.add(NAME, IMAGE, without=[LAYER.digest])
    marker = layout.directory / "blobs" / "sha256" / Digest.of(b"marker").hex
    async with running(LayoutStore(layout.directory)) as store:
        with layout.path(LAYER.digest).open("wb", buffering=0) as file:
            file.write(content[:-1])
            marker.write_bytes(b"marker")  # the store has seen both when it offers this one
            await wait_keys(store, there=keys_of([Digest.of(b"marker")]), gone=keys_of([LAYER.digest]))
            file.write(content[-1:])
        await wait_keys(store, there=keys_of([LAYER.digest]))


async def test_an_unnamed_blob_written_in_place_is_offered_when_it_is_closed(layout: Layout) -> None:
    digest = Digest.of(b"first second")
    async with running(LayoutStore(layout.directory)) as store:
        with layout.path(digest).open("wb", buffering=0) as file:
            file.write(b"first ")
            layout.write_blob(b"marker")
            await wait_keys(store, there=keys_of([Digest.of(b"marker")]), gone=keys_of([digest]))
            file.write(b"second")
        await wait_keys(store, there=keys_of([digest]))
        assert store.descriptor(digest) == Descriptor(digest, OCTET_STREAM, 12)


async def test_an_unnamed_blob_that_was_just_written_is_offered_once_it_has_settled(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peili.store.layout.SETTLE_SECONDS", 0.3)
    digest = layout.write_blob(b"fresh")
    async with running(LayoutStore(layout.directory)) as store:
        await wait_keys(store, there=keys_of([digest]))


async def test_a_corrupt_manifest_is_not_offered_and_its_repair_is(layout: Layout) -> None:
    content = IMAGE.blobs[IMAGE.descriptor.digest]
    layout.add(NAME, IMAGE)
    layout.write_blob(content.replace(b'"schemaVersion":2', b'"schemaVersion":3'), IMAGE.descriptor.digest)
    async with running(LayoutStore(layout.directory)) as store:
        assert TAG not in set(store.keys())
        assert store.descriptor(IMAGE.descriptor.digest) is None
        layout.write_blob(content)
        await wait_keys(store, there=[TAG, *keys_of(IMAGE.blobs)])


async def test_a_manifest_that_becomes_corrupt_is_withdrawn(layout: Layout) -> None:
    content = IMAGE.blobs[IMAGE.descriptor.digest]
    layout.add(NAME, IMAGE)
    async with running(LayoutStore(layout.directory)) as store:
        layout.write_blob(content.replace(b'"schemaVersion":2', b'"schemaVersion":3'), IMAGE.descriptor.digest)
        await wait_keys(store, gone=[TAG, *keys_of([IMAGE.descriptor.digest])])


async def test_a_blob_above_4_gib(layout: Layout) -> None:
    size = 4 * 2**30 + 4097
    digest = Digest.of(b"stands for a sparse file")
    config = compress(b"{}", Compression.NONE)
    layout.write_blob(config)
    described = Descriptor(digest, "application/vnd.oci.image.layer.v1.tar", size)
    manifest = json.dumps(
        {"config": describe(Descriptor(Digest.of(config), "application/json", 2)), "layers": [describe(described)]}
    ).encode()
    with layout.path(digest).open("wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"end", size - 3)
    layout.write_blob(manifest)
    layout.name(NAME, Descriptor(Digest.of(manifest), "", len(manifest)))
    async with running(LayoutStore(layout.directory)) as store:
        assert store.descriptor(digest) == described
        assert store.statistics().bytes > size
        with await store.open(digest) as blob:
            assert blob.size == size
            assert os.pread(blob.fileno, 10, size - 3) == b"end"
            assert os.pread(blob.fileno, 3, 2**32 - 1) == b"\0\0\0"


Breaking = Callable[[Path], object]
BROKEN: dict[str, tuple[Breaking, str]] = {
    "no index.json": (lambda path: (path / "index.json").unlink(), "index.json"),
    "half an index.json": (lambda path: (path / "index.json").write_text('{"manifests":['), "index.json is broken"),
    "a manifest as index.json": (
        lambda path: (path / "index.json").write_bytes(IMAGE.blobs[IMAGE.descriptor.digest]),
        "index.json is broken",
    ),
    "a docker archive": (lambda path: (path / "oci-layout").unlink(), "is this an OCI image layout"),
    "a broken version": (lambda path: (path / "oci-layout").write_text("[" * 4000), "is broken"),
    "no version": (lambda path: (path / "oci-layout").write_text("{}"), "version"),
    "another version": (lambda path: (path / "oci-layout").write_text('{"imageLayoutVersion":"2.0"}'), "'2.0'"),
    "a directory that is gone": (lambda path: path.rename(path.with_name("away")), "is missing"),
}


@pytest.mark.parametrize(("break_it", "problem"), BROKEN.values(), ids=BROKEN)
async def test_a_layout_that_breaks_is_said_and_nothing_known_is_lost(
    layout: Layout, break_it: Breaking, problem: str
) -> None:
    layout.add(NAME, IMAGE)
    async with running(LayoutStore(layout.directory)) as store:
        before = set(store.keys())
        break_it(layout.directory)
        await wait_until(store, lambda: not store.statistics().answering)
        assert problem in store.statistics().problem
        assert set(store.keys()) == before
        if not layout.directory.exists():
            layout.directory.with_name("away").rename(layout.directory)
        (layout.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        layout.add("registry.example/other:1", INDEX)
        await wait_keys(store, there=[Key("registry.example/other:1"), *before])
        await wait_until(store, lambda: store.statistics().answering)


async def test_a_layout_that_is_missing_is_awaited(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await wait_until(store, lambda: "is missing" in store.statistics().problem)
        assert not store.statistics().synchronised
        Layout(tmp_path / "layout").add(NAME, IMAGE)
        await wait_keys(store, there=[TAG])
        await wait_until(store, lambda: store.statistics().synchronised)
        nursery.cancel_scope.cancel()


async def test_an_empty_layout_without_blobs_gets_its_first_image(layout: Layout) -> None:
    (layout.directory / "blobs" / "sha256").rmdir()
    (layout.directory / "blobs").rmdir()
    async with running(LayoutStore(layout.directory)) as store:
        assert store.statistics().answering
        (layout.directory / "blobs" / "sha256").mkdir(parents=True)
        layout.add(NAME, IMAGE)
        await wait_keys(store, there=[TAG, *keys_of(IMAGE.blobs)])


def polling() -> tuple[Watcher, str]:
    return Polling(0.05), "no inotify here"


async def test_without_inotify_changes_are_found_by_walking(layout: Layout) -> None:
    layout.add(NAME, IMAGE)
    async with running(LayoutStore(layout.directory, watch=polling)) as store:
        assert set(store.keys()) == {TAG} | keys_of(IMAGE.blobs)
        assert "no inotify here" in store.statistics().detail
        layout.add("registry.example/other:1", INDEX)
        await wait_keys(store, there=[Key("registry.example/other:1"), *keys_of(INDEX.blobs)])
        layout.remove_blobs([LAYER.digest])
        await wait_keys(store, gone=keys_of([LAYER.digest]))


class Deaf(Polling):
    """A watcher that never tells anything."""

    async def __anext__(self) -> list[object]:  # type: ignore[override]
        await trio.sleep_forever()
        raise AssertionError


async def test_what_no_event_tells_is_found_by_the_next_walk(layout: Layout) -> None:
    def deaf() -> tuple[Watcher, str]:
        return Deaf(), ""  # type: ignore[return-value]

    async with running(LayoutStore(layout.directory, watch=deaf, walk_seconds=0.1)) as store:
        layout.add(NAME, IMAGE)
        await wait_keys(store, there=[TAG, *keys_of(IMAGE.blobs)])


async def test_a_directory_that_cannot_be_watched_is_a_problem(layout: Layout) -> None:
    class Full(Polling):
        def add(self, directory: Path, mask: object = None) -> int:
            raise CannotWatch("no inotify watch left")

    store = LayoutStore(layout.directory, watch=lambda: (Full(), ""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await wait_until(store, lambda: store.statistics().problem == "no inotify watch left")
        nursery.cancel_scope.cancel()


async def test_an_open_that_fails_withdraws_what_is_gone(layout: Layout) -> None:
    def deaf() -> tuple[Watcher, str]:
        return Deaf(), ""  # type: ignore[return-value]

    layout.add(NAME, IMAGE)
    async with running(LayoutStore(layout.directory, watch=deaf)) as store:
        layout.remove_blobs([LAYER.digest])
        with pytest.raises(NotInStore):
            await store.open(LAYER.digest)
        await wait_keys(store, gone=keys_of([LAYER.digest]))


def test_a_layout_store_is_a_store(layout: Layout) -> None:
    store: Store = LayoutStore(layout.directory)
    assert store.statistics().problem
