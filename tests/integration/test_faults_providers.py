"""Providers cut off, reset and slowed down: at the start, in the middle, near the end; several in one pull.

test_broken_transfers kills, freezes and cuts off in the middle, for each containerd.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.integration.lab.cold import received
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import REGISTRY_PORT, Node
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = [pytest.mark.containerd, pytest.mark.usefixtures("nothing_is_left")]

HOLDERS = (VERSIONS[-1], VERSIONS[-1], VERSIONS[1])
PULLERS = VERSIONS
SIZE = 8 << 20  # bytes of the layer
RATE = 50  # Mbit/s that a holder sends: the layer takes 1.3 s
NEAR_END = 2 << 20  # bytes that are missing then
PULL_TIMEOUT = 40.0  # seconds; without help of ours a stall lasts minutes
ONE_FAULT = 12.0  # seconds for all of a pull: a stall shows after 2 s, a crawl after 5, and the machine is busy
CRAWLS = {"bytes a second": 2, "kilobytes a second": 40}  # kbit/s
MOMENTS = {"start": 0, "middle": SIZE // 4, "near the end": SIZE - NEAR_END}  # bytes that are there
# Cut off in the middle is test_broken_transfers'. A crawl takes long to be called one: it is looked at below, too.
WHEN = {
    "cut off": ("start", "near the end"),
    "reset": tuple(MOMENTS),
    "bytes a second": tuple(MOMENTS),
    "kilobytes a second": ("near the end",),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    nodes = lab.cluster([*HOLDERS, *PULLERS])
    for holder in nodes[: len(HOLDERS)]:
        holder.namespace.limit(RATE)
    return nodes


@pytest.fixture
def holders(nodes: list[Node]) -> list[Node]:
    return nodes[: len(HOLDERS)]


@pytest.fixture
def pullers(nodes: list[Node]) -> list[Node]:
    """One for each moment: who has just failed a node is passed over by it for five seconds."""
    return nodes[len(HOLDERS) :]


@pytest.fixture
def puller(pullers: list[Node]) -> Node:
    return pullers[0]


@contextmanager
def broken(holder: Node, how: str) -> Iterator[None]:
    """The holder has this fault until the end of the block; a reset is over at once."""
    with ExitStack() as mended:
        match how:
            case "killed":
                holder.kill_peili()
                mended.callback(holder.wait_peili)
                mended.callback(holder.start_peili)
            case "frozen":
                holder.freeze_peili(True)
                mended.callback(holder.freeze_peili, False)
            case "cut off":
                holder.namespace.reachable(False)
                mended.callback(holder.namespace.reachable, True)
            case "reset":
                holder.namespace.reset(REGISTRY_PORT)
            case _:
                holder.namespace.crawl(CRAWLS[how])
                mended.callback(holder.namespace.limit, RATE)
        yield


def held(lab: Lab, holders: Sequence[Node], puller: Node, name: str) -> tuple[Image, str]:
    """An image of one large layer that these have and the puller finds."""
    name = name.replace(" ", "-")
    image = lab.pool.random_image(name, 1, SIZE)
    reference = lab.registry().add(image, "providers/image", name)
    with ThreadPoolExecutor(len(holders)) as pool:
        list(pool.map(lambda holder: holder.pull(reference), holders))
    for holder in holders:
        wait_until(lambda holder=holder: holder.finds(reference, local=True), "offered by all")  # type: ignore[misc]
    wait_offered(puller, reference, image)
    return image, reference


class Sent:
    """What each holder has sent since the making of this object;."""

    def __init__(self, holders: Sequence[Node]) -> None:
        self._before = {holder: holder.namespace.counters().sent for holder in holders}

    def by(self, holder: Node) -> int:
        return holder.namespace.counters().sent - self._before[holder]

    def now(self) -> Node | None:
        """Who sends most at the moment; None where nobody does."""
        before = {holder: self.by(holder) for holder in self._before}
        time.sleep(0.05)
        moved = {holder: self.by(holder) - count for holder, count in before.items()}
        most = max(moved, key=lambda holder: moved[holder])
        return most if moved[most] > 64 * 1024 else None

    def wait(self) -> Node:
        """The same, once somebody sends."""
        sender = wait_until(self.now, "a holder sends", PULL_TIMEOUT)
        assert sender is not None
        return sender


def wait_received(puller: Node, image: Image, count: int) -> None:
    wait_until(lambda: received(puller, image.layers[0]) >= count, f"{count} bytes are there", PULL_TIMEOUT)


@pytest.mark.parametrize("how", WHEN)
def test_a_provider_fails_at_each_moment(lab: Lab, holders: list[Node], pullers: list[Node], how: str) -> None:
    """Another one goes on, without the upstream."""
    used = holders[:2]
    for (when, count), puller in zip(MOMENTS.items(), pullers, strict=True):
        if when not in WHEN[how]:
            continue
        image, reference = held(lab, used, puller, f"{how} {when}")
        sent = Sent(used)
        with stopped(lab.registry()), ThreadPoolExecutor(1) as pool, ExitStack() as faults:
            started = time.monotonic()
            if not count and how != "reset":
                faults.enter_context(broken(used[0], how))  # it may be the one that is asked first
            pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
            if count or how == "reset":
                wait_received(puller, image, count)
                faults.enter_context(broken(sent.wait(), how))
            pull.result(PULL_TIMEOUT)
            seconds = time.monotonic() - started
        assert puller.holds(image), when
        assert seconds < ONE_FAULT, when
        assert sum(map(sent.by, used)) < SIZE * 1.5, f"{when}: begun anew"


@pytest.mark.parametrize("how", ["reset", *CRAWLS])
def test_the_only_provider_fails_and_the_upstream_goes_on(
    lab: Lab, holders: list[Node], puller: Node, how: str
) -> None:
    image, reference = held(lab, holders[:1], puller, f"only {how}")
    traffic = Traffic(lab.registry())
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
        wait_received(puller, image, SIZE // 4)
        with broken(holders[0], how):
            pull.result(PULL_TIMEOUT)
    assert puller.holds(image)
    assert sum(request.sent for request in traffic.requests() if request.blob) < SIZE


@pytest.mark.parametrize("moment", MOMENTS)
def test_two_of_three_fail_at_once_in_different_ways(
    lab: Lab, holders: list[Node], pullers: list[Node], moment: str
) -> None:
    when, puller = MOMENTS[moment], pullers[list(MOMENTS).index(moment)]
    image, reference = held(lab, holders, puller, f"two at {moment}")
    sent = Sent(holders)
    with stopped(lab.registry()), ThreadPoolExecutor(1) as pool, ExitStack() as faults:
        if when:
            pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
            wait_received(puller, image, when)
        first = sent.wait() if when else holders[0]
        second = next(holder for holder in holders if holder is not first)
        faults.enter_context(broken(first, "frozen"))
        faults.enter_context(broken(second, "cut off" if when else "killed"))
        if not when:
            pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
        pull.result(PULL_TIMEOUT)
    assert puller.holds(image)


def test_one_after_another_fails_in_one_pull(lab: Lab, holders: list[Node], puller: Node) -> None:
    """Reset, slowed down, frozen: whoever is left goes on, and the upstream gives no more than a rest."""
    image, reference = held(lab, holders, puller, "one after another")
    sent, traffic = Sent(holders), Traffic(lab.registry())
    ways = ("reset", "bytes a second", "frozen")
    with ThreadPoolExecutor(1) as pool, ExitStack() as faults:
        pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
        for number, how in enumerate(ways, start=1):
            wait_received(puller, image, SIZE * number // (len(ways) + 1))
            if (sender := sent.now()) is None:
                break  # the upstream has gone on
            faults.enter_context(broken(sender, how))
        pull.result(PULL_TIMEOUT)
    assert puller.holds(image)
    assert sum(request.sent for request in traffic.requests() if request.blob) < SIZE
    assert sum(map(sent.by, holders)) < SIZE * 1.5
