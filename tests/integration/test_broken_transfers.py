"""A holder that is lost in the middle of a layer: another one goes on at the offset, or the upstream does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = [pytest.mark.containerd, pytest.mark.usefixtures("nothing_is_left")]

SIZE = 16 << 20  # bytes of the layer
RATE = 100  # Mbit/s that a holder sends: the layer takes more than a second
SOME = 4 << 20  # bytes after which the holder is lost
PULL_TIMEOUT = 30.0  # seconds; without help of ours a stall lasts minutes
HOLDERS = (VERSIONS[0], VERSIONS[2])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    nodes = lab.cluster([*HOLDERS, *VERSIONS])
    for holder in nodes[: len(HOLDERS)]:
        holder.namespace.limit(RATE)
    return nodes


@pytest.fixture
def holders(nodes: list[Node]) -> list[Node]:
    return nodes[: len(HOLDERS)]


@pytest.fixture(params=range(len(VERSIONS)), ids=VERSIONS)
def puller(request: pytest.FixtureRequest, nodes: list[Node]) -> Node:
    number: int = request.param
    return nodes[len(HOLDERS) + number]


@contextmanager
def lost(holder: Node, how: str) -> Iterator[None]:
    """The holder is killed, frozen or cut off meanwhile."""
    match how:
        case "killed":
            holder.kill_peili()
        case "frozen":
            holder.freeze_peili(True)
        case "cut off":
            holder.namespace.reachable(False)
    try:
        yield
    finally:
        match how:
            case "killed":
                holder.start_peili()
            case "frozen":
                holder.freeze_peili(False)
            case "cut off":
                holder.namespace.reachable(True)
        holder.wait_peili()


def pulling(pool: ThreadPoolExecutor, puller: Node, reference: str) -> Future[str]:
    """Begin a pull."""
    return pool.submit(puller.pull, reference, PULL_TIMEOUT)


def first_to_send(holders: list[Node], before: dict[Node, int]) -> Node:
    """The holder that has sent some of the layer, once there is one."""

    def busy() -> Node | None:
        sent = {holder: holder.namespace.counters().sent - before[holder] for holder in holders}
        return next((holder for holder in holders if sent[holder] > SOME), None)

    found = wait_until(busy, "a holder sends the layer", PULL_TIMEOUT)
    assert found is not None
    return found


def sent(nodes: list[Node]) -> dict[Node, int]:
    """What each has sent so far."""
    return {node: node.namespace.counters().sent for node in nodes}


def large(lab: Lab, name: str) -> Image:
    """An image of one large layer."""
    return lab.pool.random_image(name, 1, SIZE)


HOW = ("killed", "frozen", "cut off")


# containerd sees nothing of it: each way with one version, where below it has to resume by itself.
@pytest.mark.parametrize(("puller", "how"), [*zip(range(len(VERSIONS)), HOW, strict=True)], indirect=["puller"])
def test_another_holder_goes_on_at_the_offset(lab: Lab, holders: list[Node], puller: Node, how: str) -> None:
    name = f"{how}-{puller.containerd.suite}".replace(" ", "-")
    image = large(lab, f"other-{name}")
    reference = lab.registry().add(image, "broken/other", name)
    for holder in holders:
        holder.pull(reference)
        wait_until(lambda holder=holder: holder.finds(reference, local=True), "offered by both")  # type: ignore[misc]
    wait_offered(puller, reference, image)

    before = sent(holders)
    with stopped(lab.registry()), ThreadPoolExecutor(1) as pool:
        pull = pulling(pool, puller, reference)
        broken = first_to_send(holders, before)
        with lost(broken, how):
            pull.result(PULL_TIMEOUT)

    assert puller.holds(image)
    [other] = [holder for holder in holders if holder is not broken]
    assert other.namespace.counters().sent - before[other] < SIZE, "the other holder began anew"


@pytest.mark.parametrize("how", HOW)
def test_the_upstream_goes_on_where_nobody_is_left(lab: Lab, holders: list[Node], puller: Node, how: str) -> None:
    name = f"{how}-{puller.containerd.suite}".replace(" ", "-")
    image = large(lab, f"upstream-{name}")
    reference = lab.registry().add(image, "broken/upstream", name)
    holder = holders[0]
    holder.pull(reference)
    wait_offered(puller, reference, image)

    before = sent([holder])
    traffic = Traffic(lab.registry())
    with ThreadPoolExecutor(1) as pool:
        pull = pulling(pool, puller, reference)
        first_to_send([holder], before)
        with lost(holder, how):
            pull.result(PULL_TIMEOUT)

    assert puller.holds(image)
    blobs = [request for request in traffic.requests() if request.blob]
    assert [request.status for request in blobs] == [206]
    assert 0 < blobs[0].sent < SIZE
