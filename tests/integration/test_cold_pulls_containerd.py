"""Cold pulls and what containerd brings with it: slots, parallel ranges, namespaces, layers above 2 GiB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.lab.cold import HICCUP, SLACK, ColdPulls, check_bytes, limited_lab, warm_cluster
from tests.integration.lab.containerd import NAMESPACE, VERSIONS
from tests.integration.lab.cri import CriError
from tests.integration.lab.images import LAYER, Layer
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.processes import command
from tests.integration.lab.upstream import Registry

pytestmark = pytest.mark.containerd

RATE = 100  # Mbit/s that the upstream sends
SIZE = 24 << 20  # bytes of an image's layers: about two seconds
NEWEST = VERSIONS[2]  # 2.1 or newer: three downloads at once for all pulls of a node
CHUNK = 4 << 20  # bytes that containerd asks for in one of several requests


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with limited_lab(RATE) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return warm_cluster(lab, [NEWEST, NEWEST, VERSIONS[0]])


@pytest.fixture
def registry(lab: Lab) -> Registry:
    return lab.registry()


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_two_images_in_opposite_order_through_the_slots_of_two_nodes(
    lab: Lab, nodes: list[Node], registry: Registry, pause: float
) -> None:
    names = [f"opposite-{number}-{pause}" for number in range(2)]
    images = [lab.pool.random_image(name, 6, SIZE // 6) for name in names]
    references = [registry.add(image, "cold/slots", name) for image, name in zip(images, names, strict=True)]
    one, other = nodes[:2]

    with ColdPulls(images[0], registry) as first, ColdPulls(images[1], registry) as second:
        first.start(one, references[0])
        second.start(other, references[1])
        first.start(other, references[0], after=pause)
        second.start(one, references[1], after=pause)
        first.wait()
        second.wait()

    for image in images:
        check_bytes([one, other], image)
    # Where every slot waits for the other node, some have to be freed, and their layers may be fetched twice.
    assert first.ratio() + second.ratio() <= 2 * 1.67 + HICCUP
    single = 2 * SIZE * 8 / RATE / 1e6
    assert max(*first.seconds.values(), *second.seconds.values()) <= 1.67 * single + SLACK


@pytest.fixture
def parallel(nodes: list[Node]) -> Iterator[None]:
    """containerd 2.1 fetches each layer in several requests at once."""
    newest = [node for node in nodes if node.containerd.suite == NEWEST]
    for node in newest:
        in_parallel(node, CHUNK)
    yield
    for node in newest:
        in_parallel(node, 0)


@pytest.mark.usefixtures("parallel")
@pytest.mark.parametrize("fault", [False, True])
def test_several_requests_for_one_layer_at_once(
    lab: Lab, nodes: list[Node], registry: Registry, *, fault: bool
) -> None:
    image = lab.pool.random_image(f"ranges-{fault}", 1, SIZE)
    reference = registry.add(image, "cold/ranges", str(fault))
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        leader = pulls.leader()
        others = [node for node in nodes if node is not leader]
        if fault:
            for node in others:
                pulls.wait_received(node, SIZE // 4)
            leader.containerd.stop()
        pulls.wait(*others)
    if fault:
        leader.containerd.start()
        leader.containerd.wait_ready()

    check_bytes(others, image)
    # Who fetches in parallel from upstream asks for more than it takes.
    assert pulls.ratio() <= 1.4 + HICCUP


def in_parallel(node: Node, chunk: int) -> None:
    """Have containerd fetch a layer in several requests of so many bytes, or in one where it is 0."""
    text = node.containerd.configuration.read_text()
    kept = "\n".join(line for line in text.splitlines() if "concurrent_layer_fetch_buffer" not in line)
    table = '[plugins."io.containerd.transfer.v1.local"]'
    kept = kept if table in kept else f"{kept}\n{table}\n"
    setting = f"{table}\n  concurrent_layer_fetch_buffer = {chunk}"
    node.containerd.configuration.write_text(kept.replace(table, setting))
    node.containerd.restart()


def test_another_containerd_namespace_takes_no_part(lab: Lab, nodes: list[Node], registry: Registry) -> None:
    stranger, *others = nodes
    image = lab.pool.random_image("namespaces", 1, SIZE)
    reference = registry.add(image, "cold/namespaces", "1")

    fetch_elsewhere(stranger, reference)
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(others, reference)
        pulls.wait()
        assert pulls.ratio() <= 1.05 + HICCUP, "what another namespace has is not offered"
        pulls.start(stranger, reference)
        pulls.wait()

    check_bytes(nodes, image)
    assert pulls.ratio() <= 1.05 + HICCUP


def test_a_fetch_for_another_namespace_holds_nobody_up(lab: Lab, nodes: list[Node], registry: Registry) -> None:
    stranger, *others = nodes
    image = lab.pool.random_image("elsewhere", 1, SIZE)
    reference = registry.add(image, "cold/elsewhere", "1")

    with ColdPulls(image, registry) as pulls:
        pulls.submit(lambda: fetch_elsewhere(stranger, reference))
        pulls.start_all(others, reference)
        pulls.wait()

    check_bytes(others, image)
    assert pulls.ratio() <= 2.05 + HICCUP, "one for each namespace"
    single = 2 * SIZE * 8 / RATE / 1e6
    assert max(pulls.seconds.values()) <= single + SLACK


def fetch_elsewhere(node: Node, reference: str) -> None:
    """Fetch an image's content into another namespace, through this node's Peili."""
    words = node.containerd.ctr_words("content", "fetch", "--hosts-dir", str(node.containerd.hosts), reference)
    command(*("elsewhere" if word == NAMESPACE else word for word in words))


@pytest.mark.slow
def test_a_layer_above_two_gibibytes_whose_leader_dies() -> None:
    size = (2 << 30) + (512 << 20)
    with Lab(need=5 * size) as lab:
        registry = lab.registry()
        lab.upstream.limit(2000)
        nodes = lab.cluster([VERSIONS[0], VERSIONS[1], NEWEST])
        blob = lab.pool.add_zeros(size, LAYER)
        image = lab.pool.image([Layer(blob, blob.digest)], index=False)
        reference = registry.add(image, "cold/large", "1")
        with ColdPulls(image, registry) as pulls:
            pulls.start_all(nodes, reference)
            leader = pulls.leader()
            others = [node for node in nodes if node is not leader]
            pulls.wait_received(leader, (2 << 30) + 1)
            lab.upstream.limit(RATE)  # the rest takes longer than the others need, and the leader to stop
            for node in others:
                pulls.wait_received(node, (2 << 30) + 1)
            leader.containerd.stop()
            lab.upstream.limit(2000)
            pulls.wait(*others)
            with pytest.raises(CriError):
                pulls.wait(leader)

        check_bytes(others, image)
        assert pulls.ratio() <= 1.1
