"""The laboratory itself: containerds of all versions pull from the upstream, and the upstream's count is right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.install import ROOT_FILE_SYSTEM
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node, by_digest
from tests.integration.lab.scenario import build, layout_tar
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

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


@pytest.mark.parametrize("suite", VERSIONS)
def test_imported_and_built_images_are_images_to_the_cri(
    lab: Lab, nodes: dict[str, Node], suite: str, tmp_path: Path
) -> None:
    node = nodes[suite]
    imported = lab.pool.random_image(f"imported-{suite}")
    node.containerd.ctr(
        "images", "import", str(layout_tar(tmp_path / "image.tar", imported, "imported.example/a/b:1"))
    )
    built = lab.pool.random_image(f"built-{suite}")
    build(node, built, "built.example/c:1")

    def known() -> bool:
        names = ("imported.example/a/b:1", "built.example/c:1")
        return all(node.containerd.cri.status(name) is not None for name in names)

    wait_until(known, "the CRI knows both")
    assert node.holds(imported)
    assert node.holds(built)
    # They survive garbage collection: the labels are right.
    other = lab.pool.random_image(f"collected-{suite}")
    reference = lab.registry().add(other, "collected", suite)
    node.pull(reference)
    node.containerd.cri.remove(reference)
    wait_until(lambda: not node.containerd.has_blob(other.layers[0].digest), "garbage collection")
    assert node.holds(imported)
    assert node.holds(built)


@pytest.mark.parametrize("suite", VERSIONS)
def test_containerd_keeps_its_images_over_a_restart(lab: Lab, nodes: dict[str, Node], suite: str) -> None:
    node = nodes[suite]
    image = lab.pool.random_image(f"restart-{suite}")
    reference = lab.registry().add(image, "restart", suite)
    node.pull(reference)
    node.containerd.restart()
    assert node.containerd.cri.status(reference) is not None
    assert node.holds(image)


def test_an_unreachable_node_hears_nothing(lab: Lab, nodes: dict[str, Node]) -> None:
    network = nodes["installed"].namespace
    assert network.get(lab.upstream.address, 5000, "/v2/").status == 200
    assert network.get(lab.upstream.address6, 5000, "/v2/").status == 200
    network.reachable(False)
    with pytest.raises(TimeoutError):
        network.get(lab.upstream.address, 5000, "/v2/", timeout=0.2)
    network.reachable(True)

    def reaches() -> bool:
        return network.get(lab.upstream.address, 5000, "/v2/", timeout=0.5).status == 200

    assert wait_until(reaches, "reachable again")


def test_a_limit_holds_what_a_node_sends(lab: Lab, nodes: dict[str, Node]) -> None:
    megabits, size = 80, 8 << 20
    image = lab.pool.random_image("limited", 1, size)
    reference = lab.registry().add(image, "limited", "1")
    before = lab.upstream.counters()
    lab.upstream.limit(megabits)
    started = time.monotonic()
    nodes["trixie"].pull(reference)
    took = time.monotonic() - started
    lab.upstream.limit(None)
    sent = lab.upstream.counters().sent - before.sent
    assert size < sent < size * 1.2
    assert size * 8 / megabits / 1e6 * 0.7 < took < size * 8 / megabits / 1e6 * 2
