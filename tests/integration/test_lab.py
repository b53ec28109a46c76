"""The laboratory itself: containerds of all versions pull from the upstream, and the upstream's count is right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.install import ROOT_FILE_SYSTEM
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node, by_digest
from tests.integration.lab.upstream import Traffic

pytestmark = pytest.mark.containerd


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> dict[str, Node]:
    return {node.containerd.suite: node for node in lab.containerds(VERSIONS)}


@pytest.fixture(scope="module")
def debian(lab: Lab) -> Image:
    return lab.pool.debian_image(ROOT_FILE_SYSTEM)


@pytest.mark.parametrize("suite", VERSIONS)
def test_a_pull_by_tag_fetches_each_part_once(lab: Lab, nodes: dict[str, Node], debian: Image, suite: str) -> None:
    registry = lab.registry()
    reference = registry.add(debian, "debian/base", suite)
    traffic = Traffic(registry)

    nodes[suite].pull(reference)

    assert nodes[suite].holds(debian)
    fetched = sorted(request.uri.rpartition("/")[2] for request in traffic.content())
    assert fetched == sorted(blob.digest for blob in debian.pulled)
    assert traffic.sent() == sum(blob.size for blob in debian.pulled)


@pytest.mark.parametrize("suite", VERSIONS)
def test_a_pull_by_digest_and_its_removal(lab: Lab, nodes: dict[str, Node], suite: str) -> None:
    node, registry = nodes[suite], lab.registry()
    image = lab.pool.random_image(f"digest-{suite}", foreign=True)
    reference = by_digest(registry.add(image, "a/b/c", "1"), image)

    identity = node.pull(reference)

    assert identity == image.config.digest
    assert node.holds(image)
    status = node.containerd.cri.status(reference)
    assert status is not None
    assert status.digests == (reference,)
    assert not any(node.containerd.has_blob(blob.digest) for blob in image.foreign)
    node.containerd.forget_images()
    assert node.containerd.cri.images() == []
