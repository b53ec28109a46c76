"""A blob above 4 GiB, where numbers of 32 bits end, from containerd to containerd without unpacking."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import LAYER, Layer
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.scenario import stopped, wait_offered

pytestmark = [pytest.mark.containerd, pytest.mark.slow]

SIZE = (4 << 30) + 12_345  # bytes, all zero: a file that takes no space where it is not read
FETCH_TIMEOUT = 240.0  # seconds


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(need=3 * SIZE) as laboratory:
        yield laboratory


def fetch(node: Node, reference: str) -> None:
    """Fetch an image's content without unpacking; ctr resolves hosts as the CRI plugin does."""
    node.containerd.ctr(
        "content", "fetch", "--hosts-dir", str(node.containerd.hosts), reference, timeout=FETCH_TIMEOUT
    )


def test_a_blob_above_four_gibibytes(lab: Lab) -> None:
    registry = lab.registry()
    installed, _, newest = VERSIONS
    holder, puller = lab.cluster([newest, installed])
    blob = lab.pool.add_zeros(SIZE, LAYER)
    image = lab.pool.image([Layer(blob, blob.digest)], index=False)
    reference = registry.add(image, "large/zeros", "1")

    fetch(holder, reference)
    assert holder.holds(image)
    wait_offered(puller, reference, image)
    with stopped(registry):
        fetch(puller, reference)

    assert puller.holds(image)
