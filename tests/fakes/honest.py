"""A client that goes on pulling while a node is attacked, and what it noticed of that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from peili.demo.images import Image
from peili.oci.descriptor import Descriptor
from tests.fakes.nodes import fetch
from tests.fakes.processes import Node, blob_target, manifest_target

NOTICED = 20.0  # seconds that an honest pull may take at most, on a machine with much else to do


@dataclass(slots=True)
class Honest:
    """Seconds that each pull of the image, tag and layers, took."""

    seconds: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return max(self.seconds)

    async def wait_pulls(self, count: int) -> None:
        """Wait for so many more."""
        goal = len(self.seconds) + count
        with trio.fail_after(NOTICED * count):
            while len(self.seconds) < goal:
                await trio.sleep(0.01)


@asynccontextmanager
async def honest_client(puller: Node, name: str, image: Image) -> AsyncIterator[Honest]:
    """Pull again and again within the block; each answer must be right, and none may take long."""
    honest = Honest()
    manifest = image.blobs[image.descriptor.digest]

    async def layer(descriptor: Descriptor) -> None:
        answer = await fetch(puller.host, blob_target(name, descriptor.digest))
        assert (answer.status, answer.complete) == (200, True), answer.status
        assert answer.body == image.blobs[descriptor.digest]

    async def run() -> None:
        while True:
            started = time.perf_counter()
            assert (await fetch(puller.host, manifest_target(name))).body == manifest
            async with trio.open_nursery() as layers:
                for descriptor in image.layers:
                    layers.start_soon(layer, descriptor)
            honest.seconds.append(time.perf_counter() - started)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await honest.wait_pulls(2)
        yield honest
        await honest.wait_pulls(2)
        nursery.cancel_scope.cancel()
    assert honest.worst < NOTICED, honest.seconds
