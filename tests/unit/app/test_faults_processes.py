"""Holders that are killed and frozen, alone and together; all restarted at once; Peili killed: real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from peili.demo.images import Image, build_image
from peili.demo.puller import Pull
from tests.fakes.nodes import fetch
from tests.fakes.processes import Cluster, Node, cluster, holds, manifest_target, wait_offered, wait_until

pytestmark = pytest.mark.slow

SIZE = 32 << 20  # bytes of a layer: more than all the sockets between holder and client can hold
RATE = 48e6  # bytes a second that the client takes
PARTS = {"start": 0, "middle": SIZE // 4, "near the end": SIZE - (2 << 20)}  # bytes that have come when it happens


def name_of(text: str) -> str:
    return f"registry.example/faults:{text.replace(' ', '-')}"


def image_of(text: str) -> Image:
    return build_image(text, layer_sizes=(SIZE,))


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


class Pulling:
    """A pull in the background; it says how far it is, and how it ended."""

    def __init__(self, made: Cluster, node: Node, name: str) -> None:
        self.received = 0
        self.result: Pull | None = None
        self._ended = trio.Event()
        made.nursery.start_soon(self._run, made, node, name)

    async def _run(self, made: Cluster, node: Node, name: str) -> None:
        self.result = await made.pull(node, name, rate=RATE, progress=self._count)
        self._ended.set()

    def _count(self, count: int) -> None:
        self.received += count

    async def wait_received(self, count: int) -> None:
        with trio.fail_after(30):
            while self.received < count and self.result is None:
                await trio.sleep(0.005)

    async def wait(self) -> Pull:
        await self._ended.wait()
        assert self.result is not None
        return self.result


async def sender(holders: list[Node]) -> Node:
    """The holder that is sending; any where none is any more."""
    with trio.move_on_after(2):
        while True:
            for holder in holders:
                if (await holder.status())["registry"]["in_flight"]:
                    return holder
    return holders[0]


async def put(holders: list[Node], puller: Node, name: str, image: Image) -> None:
    for holder in holders:
        holder.layout.add(name, image)
    await wait_offered(puller, name, image)
    for holder in holders:
        await wait_until(lambda holder=holder: _serves(holder, name), f"{holder.host} serves {name}")  # type: ignore[misc]


async def _serves(holder: Node, name: str) -> bool:
    return (await fetch(holder.host, manifest_target(name), "HEAD", X_Peili_Mirrored="true")).status == 200


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_holder_is_lost_and_another_goes_on(made: Cluster, how: str) -> None:
    *holders, puller = await made.start(3)
    await put(holders, puller, name_of("warm"), warm := image_of(f"warm {how}"))
    await made.pull(puller, name_of("warm"))
    assert holds(puller, warm)
    before = puller.use()
    for when, count in PARTS.items():
        image = image_of(f"{how} {when}")
        await put(holders, puller, name_of(when), image)
        pulling = Pulling(made, puller, name_of(when))
        await pulling.wait_received(count)
        lost = await sender(holders) if count else holders[0]
        if how == "killed":
            await lost.kill()
        else:
            lost.freeze()
        pull = await pulling.wait()
        assert holds(puller, image), (how, when)
        assert pull.received["peers"] == image.size  # nothing was fetched twice, and upstream does not exist
        assert await puller.readiness() == 200
        assert await lost.readiness() is None
        if how == "killed":
            await lost.restart()
        else:
            lost.thaw()
        await lost.wait_ready()
    for node in made.nodes:
        if node is puller or how == "frozen":
            await node.wait_as_before(before)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_all_holders_are_lost_at_once_and_the_upstream_goes_on(made: Cluster, how: str) -> None:
    *holders, puller = await made.start(3)
    upstream = await made.serve_upstream()
    before = puller.use()
    image = image_of(f"all {how}")
    upstream.push("faults:all", image)
    await put(holders, puller, name_of("all"), image)
    pulling = Pulling(made, puller, name_of("all"))
    await pulling.wait_received(PARTS["middle"])
    for holder in holders:
        if how == "killed":
            await holder.kill()
        else:
            holder.freeze()
    pull = await pulling.wait()
    assert holds(puller, image)
    assert 0 < pull.received["upstream"] < image.size  # resumed at the offset
    assert sum(pull.received.values()) == image.size
    if how == "frozen":
        for holder in holders:
            holder.thaw()
    await puller.wait_as_before(before)  # ready without any peer: it serves what it has


async def test_all_nodes_are_restarted_at_once(made: Cluster) -> None:
    image = build_image("restarted", layer_sizes=(2_000_000,))
    nodes = await made.start(4)
    nodes[1].layout.add(name_of("restarted"), image)
    await wait_offered(nodes[2], name_of("restarted"), image)
    for node in nodes:
        await node.kill()
    for node in nodes:
        await node.start()
    for node in nodes:
        await node.wait_ready()
    before = nodes[3].use()
    await wait_offered(nodes[3], name_of("restarted"), image)
    await made.pull(nodes[3], name_of("restarted"))
    assert holds(nodes[3], image)
    await nodes[3].wait_as_before(before)
    assert len((await nodes[0].status())["router"]["peers"]) == 3  # nobody remembers those that are gone


async def test_peili_is_killed_under_load_and_the_client_goes_upstream(made: Cluster) -> None:
    holder, puller = await made.start(2)
    upstream = await made.serve_upstream()
    image = build_image("peili killed", layer_sizes=(SIZE, SIZE // 2, 10_000))
    upstream.push("faults:own", image)
    await put([holder], puller, name_of("own"), image)
    before = holder.use()
    pulling = Pulling(made, puller, name_of("own"))
    await pulling.wait_received(PARTS["middle"])
    await puller.kill()
    pull = await pulling.wait()
    assert holds(puller, image)
    assert pull.received["peers"] > 0
    assert pull.received["upstream"] > 0
    await holder.wait_as_before(before)
    await puller.start()
    await puller.wait_ready()


async def test_an_image_is_deleted_while_it_is_served(made: Cluster) -> None:
    """An open file outlives its name: the transfer ends well, and nobody is sent there any more."""
    holder, puller, late = await made.start(3)
    image = image_of("deleted")
    await put([holder], puller, name_of("deleted"), image)
    before = holder.use()
    pulling = Pulling(made, puller, name_of("deleted"))
    await pulling.wait_received(PARTS["middle"])
    holder.layout.remove(name_of("deleted"))
    holder.layout.remove_blobs(list(image.blobs))
    await pulling.wait()
    assert holds(puller, image)
    await wait_until(lambda: _gone(holder, image), "the offer is withdrawn")
    await holder.wait_as_before(before)
    await wait_offered(late, name_of("deleted"), image)  # by the puller, which is a holder now
    await made.pull(late, name_of("deleted"))
    assert holds(late, image)


async def _gone(holder: Node, image: Image) -> bool:
    return bool((await holder.status())["router"]["provided_keys"] == 0)


async def test_a_node_that_ends_says_so_and_lets_transfers_finish(made: Cluster) -> None:
    holder, puller = await made.start(2)
    image = image_of("ends")
    await put([holder], puller, name_of("ends"), image)
    pulling = Pulling(made, puller, name_of("ends"))
    await pulling.wait_received(PARTS["middle"])
    statuses: list[int] = []

    async def stop() -> None:
        statuses.append(await holder.stop())

    made.nursery.start_soon(stop)
    await wait_until(lambda: _not_ready(holder), "not ready while it ends", 10)
    await pulling.wait()
    assert holds(puller, image)
    with trio.fail_after(30):
        while not statuses:
            await trio.sleep(0.05)
    assert statuses == [0]


async def _not_ready(node: Node) -> bool:
    return await node.readiness() in (503, None)
