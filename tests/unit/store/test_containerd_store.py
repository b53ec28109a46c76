"""The store on a containerd that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import structlog
import trio

from peili.containerd.api import event_types_pb2
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.store.containerd import ContainerdStore
from peili.store.protocol import Added, NotInStore
from tests.fakes import containerd as fakes
from tests.fakes.containerd import FakeContainerd
from tests.fakes.images import Image, build_image

PATIENCE = 20.0  # seconds until a test is given up
NAME = "registry.example/team/app:1"
TAG = Key(NAME)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeContainerd]:
    with fakes.running(tmp_path) as fake:
        yield fake


@asynccontextmanager
async def started(store: ContainerdStore) -> AsyncIterator[ContainerdStore]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(store.run)
            yield store
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads do; the caller's timeout ends it."""
    while not condition():
        await trio.sleep(0.002)


def add(fake: FakeContainerd, name: str, image: Image, *, listed: bool = True) -> None:
    for content in image.blobs.values():
        fake.add_blob(content, listed=listed)
    described = image.descriptor
    fake.add_image(name, described.media_type, str(described.digest), described.size)


def keys_of(image: Image, *names: str) -> set[Key]:
    return {Key(str(digest)) for digest in image.blobs} | {Key(name) for name in names}


@pytest.mark.parametrize("namespace", ["k8s.io", "k8s.oi"])
async def test_a_namespace_that_does_not_exist_is_logged_once(fake: FakeContainerd, namespace: str) -> None:
    store = ContainerdStore(fake.socket, namespace)
    with structlog.testing.capture_logs() as logged:
        async with started(store):
            fake.stop()
            await until(lambda: not store.statistics().answering)
            fake.start()
            await until(lambda: store.statistics().answering)
    told = [(entry["namespace"], entry["existing"]) for entry in logged if "no such" in entry["event"]]
    assert told == ([(namespace, ["k8s.io"])] if namespace == "k8s.oi" else [])


async def test_a_containerd_that_does_not_tell_its_namespaces_is_followed(fake: FakeContainerd) -> None:
    fake.errors[fakes.NAMESPACES] = grpc.StatusCode.PERMISSION_DENIED
    async with started(ContainerdStore(fake.socket)) as store:
        assert store.statistics().answering


async def test_a_file_that_no_metadata_lists_is_not_offered(fake: FakeContainerd) -> None:
    before, after = build_image("before"), build_image("after")
    add(fake, "registry.example/other:1", before, listed=False)
    add(fake, NAME, build_image("mine"))
    async with started(ContainerdStore(fake.socket)) as store:
        assert set(store.keys()) == keys_of(build_image("mine"), NAME)
        for content in after.blobs.values():
            fake.add_blob(content, listed=False)
        await until(lambda: fake.calls[fakes.INFO] >= 2 * len(after.blobs))
        assert set(store.keys()) == keys_of(build_image("mine"), NAME)
        with pytest.raises(NotInStore):
            await store.open(after.descriptor.digest)


async def test_metadata_that_comes_after_the_file_is_waited_for(fake: FakeContainerd) -> None:
    async with started(ContainerdStore(fake.socket)) as store:
        digest = fake.add_blob(b"late", listed=False)
        await until(lambda: fake.calls[fakes.INFO] >= 2)
        assert not store.keys()
        fake.content[digest] = 4
        await until(lambda: set(store.keys()) == {Key(digest)})


async def test_a_file_of_another_size_than_listed_is_not_offered(fake: FakeContainerd) -> None:
    good = fake.add_blob(b"good")
    fake.add_blob(b"wrong", size=6)
    async with started(ContainerdStore(fake.socket)) as store:
        assert set(store.keys()) == {Key(good)}
        fake.add_blob(b"wrong as well", size=1)
        await until(lambda: fake.calls[fakes.INFO] >= 1)
        assert set(store.keys()) == {Key(good)}


async def test_a_pull_of_a_hundred_layers_causes_no_hundred_listings(fake: FakeContainerd) -> None:
    image = build_image("many", layer_sizes=[10] * 100)
    async with started(ContainerdStore(fake.socket)) as store:
        await until(lambda: fake.subscribed == 1)
        add(fake, NAME, image)
        for name in (f"{NAME}@{image.descriptor.digest}", f"sha256:{'0' * 64}"):
            described = image.descriptor
            fake.add_image(name, described.media_type, str(described.digest), described.size)
        await until(lambda: set(store.keys()) == keys_of(image, NAME))
        await until(lambda: fake.calls[fakes.CONTENT] >= 2)  # the one that follows image events
    assert fake.calls[fakes.CONTENT] == 2


async def test_a_removed_image_takes_its_tag_with_it_before_its_blobs_go(fake: FakeContainerd) -> None:
    image = build_image("removed")
    add(fake, NAME, image)
    async with started(ContainerdStore(fake.socket)) as store:
        await until(lambda: fake.subscribed == 1)
        fake.remove_image(NAME)
        await until(lambda: set(store.keys()) == keys_of(image))
        assert store.resolve(Reference.parse(NAME)) is None


async def test_events_of_other_namespaces_and_odd_ones_are_left_alone(fake: FakeContainerd) -> None:
    image = build_image("kept")
    add(fake, NAME, image)
    async with started(ContainerdStore(fake.socket)) as store, store.changes() as changes:
        assert (await anext(changes)).keys == keys_of(image, NAME)
        await until(lambda: fake.subscribed == 1)
        delete = event_types_pb2.ImageDelete(name=NAME)
        fake.publish("/images/delete", delete, namespace="moby")
        fake.publish("/images/delete", event_types_pb2.ImageDelete())
        fake.publish("/content/delete", event_types_pb2.ContentDelete(digest="../../etc"))
        fake.publish("/tasks/exit", delete)
        fake.add_image("registry.example/last:1", "", str(image.descriptor.digest), image.descriptor.size)
        assert await anext(changes) == Added(frozenset({Key("registry.example/last:1")}))


async def test_what_happens_during_a_listing_counts_more_than_the_listing(fake: FakeContainerd) -> None:
    stays, goes = build_image("stays"), build_image("goes")
    add(fake, NAME, stays)
    add(fake, "registry.example/goes:1", goes)
    fake.chunk_delay.set()
    store = ContainerdStore(fake.socket)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await until(lambda: fake.calls[fakes.CONTENT] == 1 and fake.subscribed == 1)
            late = fake.add_blob(b"during the listing")
            for digest in goes.blobs:
                fake.path(str(digest)).unlink()
            fake.remove_image("registry.example/goes:1")
            fake.release()
            await until(lambda: set(store.keys()) == keys_of(stays, NAME) | {Key(late)})
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", [fakes.VERSION, fakes.PLUGINS, fakes.CONTENT, fakes.IMAGES, fakes.SUBSCRIBE])
async def test_an_error_anywhere_is_said_and_tried_again(fake: FakeContainerd, path: str) -> None:
    image = build_image("patient")
    add(fake, NAME, image)
    fake.errors[path] = grpc.StatusCode.INTERNAL
    store = ContainerdStore(fake.socket)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await until(lambda: fake.calls[path] >= 2)
            await until(lambda: "as the test wants it" in store.statistics().problem)
            assert not store.statistics().answering
            del fake.errors[path]
            await until(lambda: store.statistics().answering)
            assert store.statistics().synchronised
            assert set(store.keys()) == keys_of(image, NAME)
            nursery.cancel_scope.cancel()


async def test_garbage_for_an_answer_is_an_error_like_others(fake: FakeContainerd) -> None:
    fake.garbage[fakes.CONTENT] = b"\xff" * 9
    store = ContainerdStore(fake.socket)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await until(lambda: "not a message of containerd" in store.statistics().problem)
            nursery.cancel_scope.cancel()


async def test_keys_and_files_stay_while_containerd_is_away(fake: FakeContainerd) -> None:
    image, later = build_image("first"), build_image("later")
    add(fake, NAME, image)
    async with started(ContainerdStore(fake.socket)) as store, store.changes() as changes:
        assert (await anext(changes)).keys == keys_of(image, NAME)
        fake.stop()
        await until(lambda: not store.statistics().answering)
        assert store.statistics().problem
        assert store.statistics().synchronised
        with await store.open(image.descriptor.digest) as blob:
            assert blob.size == image.descriptor.size
        add(fake, "registry.example/later:1", later)
        fake.start()
        assert (await anext(changes)).keys == keys_of(later, "registry.example/later:1")
        assert store.statistics().answering


async def test_a_file_that_is_gone_when_it_is_opened_is_withdrawn(fake: FakeContainerd) -> None:
    image = build_image("first")
    layer = image.layers[0].digest
    add(fake, NAME, image)
    async with started(ContainerdStore(fake.socket)) as store:
        fake.stop()
        await until(lambda: not store.statistics().answering)
        fake.path(str(layer)).unlink()
        assert store.descriptor(layer) is not None
        with pytest.raises(NotInStore):
            await store.open(layer)
        assert set(store.keys()) == keys_of(image, NAME) - {Key(str(layer))}


async def test_corrupt_manifests_are_not_offered(fake: FakeContainerd) -> None:
    image = build_image("corrupt")
    add(fake, NAME, image)
    path = fake.path(str(image.descriptor.digest))
    path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257"))
    async with started(ContainerdStore(fake.socket)) as store:
        assert TAG not in set(store.keys())
        assert store.descriptor(image.descriptor.digest) is None


async def test_a_content_directory_that_is_given_counts_more_than_the_exported_one(
    fake: FakeContainerd, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    fake.root.rename(mounted)
    fake.root = tmp_path / "on the host" / "content"
    (mounted / "blobs" / "sha256" / Digest.of(b"x").hex).write_bytes(b"x")
    fake.content[str(Digest.of(b"x"))] = 1
    async with started(ContainerdStore(fake.socket, content_path=mounted)) as store:
        assert set(store.keys()) == {Key(str(Digest.of(b"x")))}


async def test_a_content_directory_that_is_not_here_is_said(fake: FakeContainerd, tmp_path: Path) -> None:
    await _has_problem(
        ContainerdStore(fake.socket, content_path=tmp_path / "missing" / "content"), "--containerd-content-path"
    )


async def test_a_content_directory_of_somebody_else_is_said(fake: FakeContainerd, tmp_path: Path) -> None:
    fake.add_blob(b"here")
    (tmp_path / "empty").mkdir()
    await _has_problem(ContainerdStore(fake.socket, content_path=tmp_path / "empty"), "none can be read under")


async def test_a_missing_socket_is_said(tmp_path: Path) -> None:
    await _has_problem(ContainerdStore(tmp_path / "none.sock"), "no socket at")


async def _has_problem(store: ContainerdStore, words: str) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await until(lambda: words in store.statistics().problem)
            found = store.statistics()
            assert not found.answering
            assert not found.synchronised
            nursery.cancel_scope.cancel()
