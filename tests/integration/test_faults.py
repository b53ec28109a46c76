"""Faults that need root: containerd restarted and emptied under load, Peili killed, a cluster split in two."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.cri import CriError
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = [pytest.mark.containerd, pytest.mark.usefixtures("nothing_is_left")]

SIZE = 16 << 20  # bytes of the layer
RATE = 100  # Mbit/s that a holder sends: the layer takes more than a second
SOME = 4 << 20  # bytes after which it happens
PULL_TIMEOUT = 30.0  # seconds
DROPPED = 75.0  # seconds until a peer without a sign of life is given up: 45, and what a busy machine adds
HEALED = 120.0  # seconds: bootstrap is asked again once a minute


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    """A holder with a slow link, and one puller of each containerd."""
    nodes = lab.cluster([VERSIONS[-1], *VERSIONS])
    nodes[0].namespace.limit(RATE)
    return nodes


@pytest.fixture
def holder(nodes: list[Node]) -> Node:
    return nodes[0]


@pytest.fixture(params=range(len(VERSIONS)), ids=VERSIONS)
def puller(request: pytest.FixtureRequest, nodes: list[Node]) -> Node:
    number: int = request.param
    return nodes[1 + number]


def held(lab: Lab, holder: Node, puller: Node, name: str) -> tuple[Image, str]:
    """An image of one large layer, which the holder has and the puller finds."""
    name = f"{name}-{puller.containerd.suite}"
    image = lab.pool.random_image(name, 1, SIZE)
    reference = lab.registry().add(image, "faults/image", name)
    holder.pull(reference)
    wait_offered(puller, reference, image)
    return image, reference


def begin(pool: ThreadPoolExecutor, holder: Node, puller: Node, reference: str) -> Future[str]:
    """Begin a pull, and wait until the holder has sent some of the layer."""
    before = holder.namespace.counters().sent
    pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
    wait_until(lambda: holder.namespace.counters().sent - before > SOME, "the layer is sent", PULL_TIMEOUT)
    return pull


def test_peili_is_killed_under_load_and_containerd_goes_upstream(lab: Lab, holder: Node, puller: Node) -> None:
    image, reference = held(lab, holder, puller, "killed")
    traffic = Traffic(lab.registry())
    with ThreadPoolExecutor(1) as pool:
        pull = begin(pool, holder, puller, reference)
        puller.kill_peili()
        pull.result(PULL_TIMEOUT)
    assert puller.holds(image)
    assert 0 < sum(request.sent for request in traffic.requests() if request.blob) <= SIZE * 1.1
    puller.start_peili()
    puller.wait_peili()
    wait_until(lambda: puller.finds(reference, local=True), "offered by its new process")


def test_the_holders_containerd_restarts_while_it_serves(lab: Lab, holder: Node, puller: Node) -> None:
    image, reference = held(lab, holder, puller, "restarted")
    with stopped(lab.registry()), ThreadPoolExecutor(1) as pool:
        pull = begin(pool, holder, puller, reference)
        holder.containerd.stop()
        pull.result(PULL_TIMEOUT)  # the file is open, and nobody asks containerd for it
        assert puller.holds(image)
        wait_until(lambda: holder.ready().status == 503, "not ready without containerd", 30)
        holder.containerd.start()
        holder.containerd.wait_ready()
        wait_until(lambda: holder.ready().status == 200, "ready again", 30)
    wait_until(lambda: holder.finds(reference, local=True), "offered again")


def test_the_pullers_containerd_restarts_while_it_pulls(lab: Lab, holder: Node, puller: Node) -> None:
    image, reference = held(lab, holder, puller, "puller-restarted")
    with stopped(lab.registry()), ThreadPoolExecutor(1) as pool:
        pull = begin(pool, holder, puller, reference)
        puller.containerd.restart()
        with pytest.raises(CriError):
            pull.result(PULL_TIMEOUT)
        wait_until(lambda: puller.ready().status == 200, "ready again", 30)
        puller.pull(reference, PULL_TIMEOUT)
    assert puller.holds(image)


def test_an_image_is_deleted_while_it_is_served(lab: Lab, holder: Node, puller: Node) -> None:
    image, reference = held(lab, holder, puller, "deleted")
    layer = image.layers[0].digest
    with stopped(lab.registry()), ThreadPoolExecutor(1) as pool:
        pull = begin(pool, holder, puller, reference)
        holder.containerd.cri.remove(reference)
        wait_until(lambda: not holder.containerd.has_blob(layer), "the file is gone")
        pull.result(PULL_TIMEOUT)
    assert puller.holds(image)
    wait_until(lambda: not holder.finds(reference, local=True), "no longer offered")


@pytest.mark.slow
def test_a_cluster_is_split_in_two_and_heals(lab: Lab, nodes: list[Node]) -> None:
    """Each half goes on with what it has; afterwards all find all, without a restart."""
    halves = nodes[:2], nodes[2:]
    images = []
    for number, (holder, puller) in enumerate((half[0], half[1]) for half in halves):
        image = lab.pool.random_image(f"split-{number}", 1, 1 << 20)
        reference = lab.registry().add(image, "faults/split", f"half-{number}")
        holder.pull(reference)
        for node in nodes:
            if node is not holder:
                wait_offered(node, reference, image)
        images.append((image, reference, puller))
    for node in halves[1]:
        node.namespace.side(1)
    try:
        with stopped(lab.registry()):
            for image, reference, puller in images:
                puller.pull(reference, PULL_TIMEOUT)  # within its half, while the others are still believed in
                assert puller.holds(image)
        for half in halves:
            for node in half:
                wait_until(lambda: _peers(node) == len(half) - 1, "the other half is given up", DROPPED)  # noqa: B023
                assert node.ready().status == 200
    finally:
        for node in halves[1]:
            node.namespace.side(0)
    for half, (image, reference, _) in zip(reversed(halves), images, strict=True):
        for node in half:
            wait_offered(node, reference, image, HEALED)
            wait_until(lambda: _peers(node) == len(nodes) - 1, "all are peers again", HEALED)  # noqa: B023


def _peers(node: Node) -> int:
    line = next(line for line in node.metrics().splitlines() if line.startswith("peili_peers "))
    return int(float(line.split()[1]))
