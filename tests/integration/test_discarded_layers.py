"""discard_unpacked_layers: a node offers only what can be read, and every pull still succeeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import OFFER_TIMEOUT, Node
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return lab.cluster(VERSIONS, discard_layers=True)


@pytest.mark.parametrize("holder", range(3), ids=VERSIONS)
def test_discarded_layers_are_not_offered(lab: Lab, nodes: list[Node], holder: int) -> None:
    registry, node, puller = lab.registry(), nodes[holder], nodes[(holder + 1) % 3]
    image = lab.pool.random_image(f"discarded-{holder}")
    reference = registry.add(image, "discarded/layers", str(holder))
    node.pull(reference)
    wait_until(
        lambda: not any(node.containerd.has_blob(layer.digest) for layer in image.layers),
        "containerd discards the layers",
        30,
    )
    wait_until(lambda: puller.finds_blob(reference, image.config), "the config is offered", OFFER_TIMEOUT)
    wait_until(
        lambda: not any(puller.finds_blob(reference, layer) for layer in image.layers),
        "the layers are not offered",
        OFFER_TIMEOUT,
    )

    traffic = Traffic(registry)
    puller.pull(reference)

    layers = {layer.digest for layer in image.layers}
    assert {request.uri.rpartition("/")[2] for request in traffic.requests() if request.blob} == layers
