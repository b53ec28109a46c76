"""Cold pulls while somebody dies, freezes or lies: every other pull ends well, and upstream sends the rest once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from peili.kademlia.keyspace import distance, kad_key, key_digest, position
from peili.libp2p.peer_id import PeerId
from peili.mirror.giveup import ANOTHER_PULL
from peili.oci.digest import Digest
from peili.oci.key import digest_key
from tests.integration.lab.cold import (
    HICCUP,
    LAPSE,
    PULL_TIMEOUT,
    SLACK,
    ColdPulls,
    check_bytes,
    ingest,
    limited_lab,
    warm_cluster,
)
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.cri import CriError
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import OPERATIONS_PORT, Node
from tests.integration.lab.refuser import Refuser
from tests.integration.lab.upstream import Registry
from tests.integration.lab.waiting import wait_until

pytestmark = [pytest.mark.containerd, pytest.mark.usefixtures("nothing_is_left")]

RATE = 100  # Mbit/s that the upstream sends
SIZE = 32 << 20  # bytes of the layer: 2.7 s
SOME = 8 << 20  # bytes that are there when something happens
CLUSTER = (VERSIONS[0], VERSIONS[2], VERSIONS[1], VERSIONS[2], VERSIONS[0])
STALL = 2.0  # seconds, the default of --stall-timeout


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with limited_lab(RATE) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return warm_cluster(lab, CLUSTER)


@pytest.fixture
def registry(lab: Lab) -> Registry:
    return lab.registry()


@pytest.fixture
def image(lab: Lab, request: pytest.FixtureRequest) -> Image:
    """One large layer, of bytes of its own for every test."""
    return lab.pool.random_image(f"fault-{request.node.name}", 1, SIZE)


@pytest.fixture
def reference(registry: Registry, image: Image) -> str:
    return registry.add(image, "cold/faults", image.layers[0].digest[-12:])


@contextmanager
def broken(node: Node, how: str) -> Iterator[None]:
    """The node is broken in this way until the end of the block."""
    match how:
        case "peili killed":
            node.kill_peili()
        case "peili frozen":
            node.freeze_peili(True)
        case "cut off":
            node.namespace.reachable(False)
        case "containerd stopped":
            node.containerd.stop()
    try:
        yield
    finally:
        match how:
            case "peili killed":
                node.start_peili()
            case "peili frozen":
                node.freeze_peili(False)
            case "cut off":
                node.namespace.reachable(True)
            case "containerd stopped":
                node.containerd.start()
                node.containerd.wait_ready()
        node.wait_peili()


# What upstream may send in all: the leader goes on by itself where only its Peili is gone, or is back in a while.
LEADERS = {"peili killed": 1.85, "peili frozen": 1.85, "cut off": 1.85, "containerd stopped": 1.2}


@pytest.mark.parametrize("how", LEADERS)
def test_the_leader_breaks(nodes: list[Node], registry: Registry, image: Image, reference: str, how: str) -> None:
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        leader = pulls.leader()
        others = [node for node in nodes if node is not leader]
        for node in nodes:
            pulls.wait_received(node, SOME)
        with broken(leader, how):
            pulls.wait(*others)

    check_bytes(others, image)
    assert pulls.ratio() <= LEADERS[how] + HICCUP
    single = SIZE * 8 / RATE / 1e6
    assert max(pulls.seconds[node] for node in others) <= (LEADERS[how] * single) + STALL + SLACK


@pytest.mark.parametrize("how", ["peili killed", "peili frozen", "cut off", "containerd stopped"])
def test_a_source_in_the_middle_breaks(
    nodes: list[Node], registry: Registry, image: Image, reference: str, how: str
) -> None:
    before = {node: node.namespace.counters().sent for node in nodes}
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        leader = pulls.leader()
        for node in nodes:
            pulls.wait_received(node, SOME)
        followers = [node for node in nodes if node is not leader]
        middle = max(followers, key=lambda node: node.namespace.counters().sent - before[node])
        others = [node for node in nodes if node is not middle]
        with broken(middle, how):
            pulls.wait(*others)

    check_bytes(others, image)
    # Its own containerd goes upstream where its Peili is gone.
    assert pulls.ratio() <= (1.05 if how == "containerd stopped" else 1.85) + HICCUP
    single = SIZE * 8 / RATE / 1e6
    assert max(pulls.seconds[node] for node in others) <= single + STALL + SLACK


def test_leader_and_coordinator_and_a_source_break_at_once(
    nodes: list[Node], registry: Registry, image: Image, reference: str
) -> None:
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        leader = pulls.leader()
        for node in nodes:
            pulls.wait_received(node, SOME)
        coordinator = next(node for node in closest(nodes, image.layers[0].digest) if node is not leader)
        source, *others = [node for node in nodes if node not in (leader, coordinator)]
        with broken(leader, "peili killed"), broken(coordinator, "peili frozen"), broken(source, "cut off"):
            pulls.wait(*others)

    check_bytes(others, image)
    # All three go on by themselves, upstream, and those that are left share one more.
    assert pulls.ratio() <= 1.0 + 3 * 0.8 + HICCUP


def test_upstream_fails_for_all(nodes: list[Node], registry: Registry, image: Image, reference: str) -> None:
    """In the middle: every pull ends with upstream's own error; and when it is back, all share the rest."""
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        for node in nodes:
            pulls.wait_received(node, SOME)
        registry.stop()
        for node in nodes:
            with pytest.raises(CriError):
                pulls.wait(node)
        registry.start()
        for node in nodes:  # the kubelet waits ten seconds and more
            pulls.start(node, reference, after=ANOTHER_PULL)
        pulls.wait()

    check_bytes(nodes, image)
    assert pulls.ratio() <= 1.05 + HICCUP


@pytest.mark.parametrize("how", ["peili killed", "peili frozen", "cut off"])
def test_the_coordinator_breaks(
    nodes: list[Node], registry: Registry, image: Image, reference: str, how: str
) -> None:
    [coordinator, *_] = closest(nodes, image.layers[0].digest)
    others = [node for node in nodes if node is not coordinator]
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(others, reference)
        for node in others:
            pulls.wait_received(node, SOME)
        with broken(coordinator, how):
            pulls.wait()

    check_bytes(others, image)
    assert pulls.ratio() <= 1.05 + HICCUP


def test_both_coordinators_are_silent_from_the_start(
    nodes: list[Node], registry: Registry, image: Image, reference: str
) -> None:
    first, second, *others = closest(nodes, image.layers[0].digest)
    with ColdPulls(image, registry) as pulls, broken(first, "peili frozen"), broken(second, "peili frozen"):
        pulls.start_all(others, reference)
        pulls.wait()

    check_bytes(others, image)
    single = SIZE * 8 / RATE / 1e6
    assert max(pulls.seconds.values()) <= pulls.ratio() * single + SLACK


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_containerd_cancels_a_pull(
    nodes: list[Node], registry: Registry, image: Image, reference: str, who: str
) -> None:
    with ColdPulls(image, registry) as pulls:
        if who == "leader":
            cancelled, others = nodes[0], nodes[1:]
            pulls.start(cancelled, reference, timeout=1.5)
            pulls.wait_received(cancelled, 1)
        else:
            cancelled, others = nodes[-1], nodes[:-1]
            pulls.start(cancelled, reference, after=0.5, timeout=1.0)
        pulls.start_all(others, reference)
        pulls.wait(*others)
        with pytest.raises(CriError, match="DEADLINE_EXCEEDED"):
            pulls.wait(cancelled)

    check_bytes(others, image)
    assert pulls.ratio() <= 1.15 + HICCUP


@pytest.mark.parametrize("how", [401, 403, 404, 503, "silent"])
def test_upstream_fails_for_the_leader_only(
    lab: Lab, nodes: list[Node], registry: Registry, image: Image, reference: str, how: int | str
) -> None:
    unlucky, *others = nodes
    with Refuser(lab.upstream, 5077, image, how, delay=0.5) as refuser, upstream_of(unlucky, registry, refuser.url):
        with ColdPulls(image, registry) as pulls:
            pull = pulls.start(unlucky, reference, timeout=10.0)
            assert refuser.asked.wait(PULL_TIMEOUT)
            pulls.start_all(others, reference)
            pulls.wait(*others)
            if how != "silent":
                with pytest.raises(CriError):
                    pull.result(PULL_TIMEOUT)
                unlucky.pull(reference)
        seconds = dict(pulls.seconds)

    check_bytes(others, image)
    assert pulls.ratio() <= 1.05 + HICCUP
    single = SIZE * 8 / RATE / 1e6
    assert max(seconds[node] for node in others) <= single + LAPSE + SLACK


def test_a_leader_with_wrong_bytes_costs_one_attempt(
    lab: Lab, nodes: list[Node], registry: Registry, image: Image, reference: str
) -> None:
    liar, *others = nodes
    with (
        Refuser(lab.upstream, 5078, image, "corrupt") as refuser,
        upstream_of(liar, registry, refuser.url),
        ColdPulls(image, registry) as pulls,
    ):
        pulls.start(liar, reference)
        assert refuser.asked.wait(PULL_TIMEOUT)
        pulls.start_all(others, reference)
        for node in nodes:
            with pytest.raises(CriError, match="unexpected commit digest"):
                pulls.wait(node)
        assert pulls.ratio() == 0
        for node in others:  # containerd throws away what it got, in its own time
            wait_until(lambda node=node: not ingest(node, image.layers[0]).exists(), "the wrong bytes are gone")  # type: ignore[misc]
        pulls.start_all(others, reference)
        pulls.wait(*others)

    check_bytes(others, image)
    # Each waits for somebody who has verified it, but for one that it does not believe any more.
    assert pulls.ratio() <= 3.05 + HICCUP


@contextmanager
def upstream_of(node: Node, registry: Registry, url: str) -> Iterator[None]:
    """This node's containerd takes that for the registry meanwhile."""
    node.containerd.mirror(registry.name, url)
    node.configure()
    try:
        yield
    finally:
        node.containerd.mirror(registry.name, registry.url)
        node.configure()


def closest(nodes: list[Node], digest: str) -> list[Node]:
    """The nodes by their distance from a digest's place in the keyspace: the first two coordinate it."""
    target = position(kad_key(key_digest(digest_key(Digest.parse(digest)))))

    def far(node: Node) -> int:
        status = json.loads(node.namespace.get(node.loopback, OPERATIONS_PORT, "/status").body)
        return distance(position(PeerId.parse(status["router"]["peer_id"]).to_bytes()), target)

    return sorted(nodes, key=far)
