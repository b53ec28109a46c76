"""Cold pulls: several nodes pull the same new image at once, and the upstream sends it about once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.lab.cold import ColdPulls, check_bytes, limited_lab, warm_cluster
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.upstream import Registry

pytestmark = pytest.mark.containerd

RATE = 100  # Mbit/s that the upstream sends
SIZE = 24 << 20  # bytes of an image's layers: about two seconds
CLUSTER = (VERSIONS[0], VERSIONS[2], VERSIONS[1], VERSIONS[2], VERSIONS[0])
ONCE = 1.3  # what the upstream may send, in sizes of the image: one of four layers twice, for a busy machine


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


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("pause", [0.0, 0.3], ids=["at once", "staggered"])
def test_one_download_for_all(lab: Lab, nodes: list[Node], registry: Registry, layers: int, pause: float) -> None:
    image = lab.pool.random_image(f"cold-{layers}-{pause}", layers, SIZE // layers)
    reference = registry.add(image, "cold/pull", f"{layers}-{pause}")

    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference, pause=pause)
        pulls.wait()

    check_bytes(nodes, image)
    assert pulls.ratio() <= ONCE
    assert max(pulls.others().values()) <= 2


def test_layers_smaller_than_a_packet(lab: Lab, nodes: list[Node], registry: Registry) -> None:
    image = lab.pool.random_image("tiny", 5, 10)
    reference = registry.add(image, "cold/tiny", "1")

    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        pulls.wait()

    check_bytes(nodes, image)
    assert pulls.ratio() <= 2.0
    assert max(pulls.others().values()) <= 2


def test_layers_that_images_of_two_registries_share(lab: Lab, nodes: list[Node], registry: Registry) -> None:
    other = lab.registry("other.lab:5009")
    for node in nodes:
        node.containerd.mirror(other.name, other.url)
        node.configure()
        node.namespace.set_hosts(dict.fromkeys(("registry.lab", "other.lab"), lab.upstream.address))
    image = lab.pool.random_image("shared", 2, SIZE // 2)
    references = [each.add(image, "cold/shared", "1") for each in (registry, other)]

    with ColdPulls(image, registry, other) as pulls:
        for number, node in enumerate(nodes):
            pulls.start(node, references[number % 2])
        pulls.wait()

    check_bytes(nodes, image)
    assert pulls.ratio() <= ONCE
