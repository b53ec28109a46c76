"""What every Store tells of content that is still being received."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from peili.oci.digest import Digest
from peili.store.protocol import GrowingBlob, Store
from tests.conformance.store_under_test import PATIENCE, Factory, StoreUnderTest
from tests.conformance.test_store_conformance import STORES
from tests.fakes.images import Compression, build_image
from tests.fakes.ingests import MEBIBYTE, Incoming

IMAGE = build_image("growing", layer_sizes=(4 * MEBIBYTE,), compression=Compression.NONE)


@pytest.fixture(params=STORES)
async def under_test(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    factory: Factory = request.param
    async with factory(tmp_path / "store") as fixture:
        yield fixture


def growing(store: Store, incoming: Incoming) -> GrowingBlob:
    blob = store.growing(incoming.descriptor.digest)
    assert blob is not None
    return blob


def ingests(store: Store, incoming: Incoming) -> list[tuple[int, int]]:
    """The sizes and totals of this layer's ingests; the config's may be there as well."""
    return [(item.size, item.total) for item in store.ingests() if item.digest == incoming.descriptor.digest]


async def wait_vanished(blob: GrowingBlob) -> None:
    with trio.fail_after(PATIENCE):
        while not blob.vanished():
            await blob.wait(blob.size(), 1.0)


async def test_nothing_is_received(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store:
        assert store.growing(Digest.of(b"absent")) is None
        assert list(store.ingests()) == []


async def test_the_total_is_known_before_the_first_byte_which_is_no_growth(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store, under_test.receiving(IMAGE) as incoming:
        with growing(store, incoming) as blob:
            assert (blob.digest, blob.total) == (incoming.descriptor.digest, incoming.descriptor.size)
            assert blob.size() == 0
            assert not await blob.wait(0, 0.05)
            assert not blob.ended()
            assert ingests(store, incoming) == [(0, blob.total)]
            await incoming.arrive(MEBIBYTE)
            assert await blob.wait(0, PATIENCE)


async def test_it_grows_and_the_bytes_are_those_of_the_layer(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store, under_test.receiving(IMAGE) as incoming:
        with growing(store, incoming) as blob:
            for count in (MEBIBYTE, 3 * MEBIBYTE):
                await incoming.arrive(count)
                assert await blob.wait(count - 1, PATIENCE)
                assert blob.size() == count
                assert os.pread(blob.fileno, count + 1, 0) == incoming.content[:count]
                assert abs(time.time() - blob.modified()) < PATIENCE
            assert ingests(store, incoming) == [(3 * MEBIBYTE, blob.total)]
            assert not blob.committed()
            assert not blob.vanished()


async def test_all_who_wait_are_woken(under_test: StoreUnderTest) -> None:
    woken: list[bool] = []

    async def wait(blob: GrowingBlob) -> None:
        woken.append(await blob.wait(0, PATIENCE))

    async with under_test.running() as store, under_test.receiving(IMAGE) as incoming:
        with growing(store, incoming) as one, growing(store, incoming) as other:
            async with trio.open_nursery() as nursery:
                for blob in (one, one, other):
                    nursery.start_soon(wait, blob)
                await trio.testing.wait_all_tasks_blocked()
                await incoming.arrive(MEBIBYTE)
    assert woken == [True, True, True]


async def test_after_the_commit_the_open_file_is_the_content(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store, under_test.receiving(IMAGE) as incoming:
        with growing(store, incoming) as blob:
            await incoming.arrive(2 * MEBIBYTE)
            assert await blob.wait(0, PATIENCE)
            await incoming.finish()
            assert blob.size() == blob.total
            with trio.fail_after(PATIENCE):
                assert not await blob.wait(blob.total, 1.0)
            assert blob.committed()
            assert blob.ended()
            assert not blob.vanished()
            assert not blob.thrown_away()
            assert os.pread(blob.fileno, blob.total + 1, 0) == incoming.content
            assert ingests(store, incoming) == []
            with growing(store, incoming) as again:  # the index may not know it yet
                assert again.committed()
                assert os.path.sameopenfile(again.fileno, blob.fileno)


async def test_a_pull_that_fails_leaves_the_open_bytes_and_nothing_else(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store, under_test.receiving(IMAGE) as incoming:
        with growing(store, incoming) as blob:
            await incoming.arrive(2 * MEBIBYTE)
            assert await blob.wait(2 * MEBIBYTE - 1, PATIENCE)
            await incoming.fail()
            await wait_vanished(blob)
            assert blob.ended()
            assert not blob.committed()
            assert blob.thrown_away()
            assert not await blob.wait(blob.size(), PATIENCE)
            assert os.pread(blob.fileno, blob.total, 0) == incoming.content[: 2 * MEBIBYTE]
            assert store.growing(blob.digest) is None
            assert ingests(store, incoming) == []


async def test_who_waits_hears_at_once_that_the_pull_failed(under_test: StoreUnderTest) -> None:
    async with under_test.running() as store, under_test.receiving(IMAGE) as incoming:
        with growing(store, incoming) as blob:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_vanished, blob)
                await incoming.fail()


async def test_a_leftover_is_there_and_silent_until_the_next_pull_goes_on_with_it(
    under_test: StoreUnderTest,
) -> None:
    async with under_test.running() as store:
        async with under_test.receiving(IMAGE) as incoming:
            with growing(store, incoming) as blob:
                await incoming.arrive(2 * MEBIBYTE)
                assert await blob.wait(2 * MEBIBYTE - 1, PATIENCE)
            await incoming.kill()
        with growing(store, incoming) as blob:
            assert blob.size() == 2 * MEBIBYTE
            assert not blob.ended()
            assert not await blob.wait(blob.size(), 0.05)
            assert ingests(store, incoming) == [(2 * MEBIBYTE, blob.total)]
            async with under_test.receiving(IMAGE) as again:
                await again.finish()
            assert blob.size() == blob.total
            assert blob.committed()
            assert os.pread(blob.fileno, blob.total + 1, 0) == incoming.content
