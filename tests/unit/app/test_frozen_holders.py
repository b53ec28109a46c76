"""Holders that hang, and readers that stop, on the way that a node takes by default: processes, real routers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from peili.demo.images import Image, build_image
from peili.demo.process import REGISTRY_PORT
from tests.fakes.nodes import fetch
from tests.fakes.processes import (
    Cluster,
    Node,
    blob_target,
    cluster,
    holds,
    manifest_target,
    wait_offered,
)

pytestmark = pytest.mark.slow

LAYER = 1_500_000  # bytes: too large to be read whole
LAYERS = 6
STALL = 2.0  # seconds, the default of --stall-timeout
NAME = "registry.example/hang:1"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


async def seconds_of(node: Node, target: str, status: int) -> float:
    started = time.monotonic()
    answer = await fetch(node.host, target)
    assert answer.status == status, target
    assert answer.complete
    return time.monotonic() - started


def targets_of(image: Image) -> list[str]:
    return [blob_target(NAME, digest) for digest, body in image.blobs.items() if len(body) >= LAYER]


async def sending(holders: list[Node]) -> Node:
    """The holder that sends something."""
    while True:
        for holder in holders:
            if (await holder.status())["registry"]["in_flight"]:
                return holder


async def test_a_frozen_holder_costs_one_pull_a_moment_where_another_has_it(made: Cluster) -> None:
    image = build_image("two holders", layer_sizes=(LAYER,) * LAYERS)
    one, other, puller = await made.start(3)
    for holder in (one, other):
        holder.layout.add(NAME, image)
    await wait_offered(puller, NAME, image, holders=2)
    one.freeze()
    seconds = [await seconds_of(puller, target, 200) for target in targets_of(image)]
    one.thaw()
    assert len(seconds) == LAYERS
    # None waits for the whole stall limit, as each would without a second attempt beside the first.
    assert max(seconds) < 0.75 * STALL, seconds


async def test_the_only_holder_is_frozen_and_is_not_asked_again_and_again(made: Cluster) -> None:
    image = build_image("one holder", layer_sizes=(LAYER,) * LAYERS)
    holder, puller = await made.start(2)
    holder.layout.add(NAME, image)
    await wait_offered(puller, NAME, image)
    holder.freeze()
    first, *rest = [await seconds_of(puller, target, 404) for target in targets_of(image)]
    manifest = await seconds_of(puller, manifest_target(NAME), 404)
    holder.thaw()
    assert first < STALL + 2.0, "one attempt, and the coordinators' patience"
    assert sum(rest) < 2 * STALL, "the others know"
    assert manifest < STALL


async def test_a_reader_that_stops_keeps_its_body(made: Cluster) -> None:
    """It is as slow as it likes: the source is not left, and the rest comes when it reads again."""
    size = 30 << 20
    image = build_image("slow reader", layer_sizes=(size,))
    holder, puller = await made.start(2)
    holder.layout.add(NAME, image)
    await wait_offered(puller, NAME, image)
    [target] = targets_of(image)
    async with await trio.open_tcp_stream(puller.host, REGISTRY_PORT) as stream:
        await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = len(await stream.receive_some(1000))
        await trio.sleep(3 * STALL)
        assert (await puller.status())["registry"]["in_flight"] == 1
        with trio.fail_after(30):
            while received < size:
                chunk = await stream.receive_some(1 << 20)
                assert chunk, f"ended after {received} of {size} bytes"
                received += len(chunk)


async def test_resumes_and_failures_are_counted(made: Cluster) -> None:
    size = 32 << 20
    image = build_image("counted", layer_sizes=(size,))
    *holders, puller = await made.start(3)
    for holder in holders:
        holder.layout.add(NAME, image)
    await wait_offered(puller, NAME, image)
    received = 0

    def count(more: int) -> None:
        nonlocal received
        received += more

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(made.pull, puller, NAME, rate=24e6, progress=count))
        with trio.fail_after(30):
            while received < size // 4:
                await trio.sleep(0.01)
            sender = await sending(holders)
        await sender.kill()
    assert holds(puller, image)
    assert await puller.metric("peili_resumes_total") == 1
    assert await puller.metric("peili_provider_failures_total") >= 1
