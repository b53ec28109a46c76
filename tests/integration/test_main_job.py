"""The main job: nodes pull their images from their peers, on three versions of containerd in every order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.install import ROOT_FILE_SYSTEM
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node, by_digest
from tests.integration.lab.scenario import stopped, wait_offered, without_peili
from tests.integration.lab.upstream import Registry, Traffic

pytestmark = pytest.mark.containerd

# The versions of nodes 1 to 4: each of them is the first holder once, and each pulls from each of the others.
_A, _B, _C = VERSIONS
ORDERS = ((_A, _B, _C, _A), (_B, _C, _A, _B), (_C, _A, _B, _C))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def debian(lab: Lab) -> Image:
    return lab.pool.debian_image(ROOT_FILE_SYSTEM)


@pytest.fixture(scope="module")
def registry(lab: Lab) -> Registry:
    return lab.registry()


@pytest.fixture(scope="module", params=ORDERS, ids="-".join)
def nodes(request: pytest.FixtureRequest, lab: Lab, registry: Registry) -> Iterator[list[Node]]:
    assert registry.running
    yield lab.cluster(request.param)
    lab.clear_nodes()


def test_pulls_by_tag_and_digest_come_from_peers(
    lab: Lab, registry: Registry, nodes: list[Node], debian: Image
) -> None:
    first, second, third, _ = nodes
    reference = registry.add(debian, "debian/base", "12")
    traffic = Traffic(registry)
    first.pull(reference)
    assert traffic.sent() == sum(blob.size for blob in debian.pulled)
    wait_offered(second, reference, debian)

    again = Traffic(registry)
    second.pull(reference)
    third.pull(by_digest(reference, debian))
    third.pull(reference)
    second.pull(by_digest(reference, debian))

    assert again.content() == []
    assert again.sent() == 0
    assert second.holds(debian)
    assert third.holds(debian)


def test_a_further_node_pulls_while_the_upstream_is_away(lab: Lab, registry: Registry, nodes: list[Node]) -> None:
    first, second, _, further = nodes
    suite = first.containerd.suite
    images = [lab.pool.random_image(f"away-{suite}-{number}", foreign=True) for number in range(2)]
    references = [registry.add(image, "team/away", f"{suite}-{n}") for n, image in enumerate(images)]
    for reference, image in zip(references, images, strict=True):
        first.pull(reference)
        wait_offered(further, reference, image)
    second.pull(references[0])

    with stopped(registry):
        further.pull(references[0])
        further.pull(by_digest(references[1], images[1]))

    assert all(further.holds(image) for image in images)


@pytest.mark.parametrize("where", ["holder", "puller", "both", "all"])
def test_pulls_go_on_where_peili_is_stopped(lab: Lab, registry: Registry, nodes: list[Node], where: str) -> None:
    holder, puller, *others = nodes
    image = lab.pool.random_image(f"stopped-{where}-{holder.containerd.suite}")
    reference = registry.add(image, "team/stopped", f"{where}-{holder.containerd.suite}")
    holder.pull(reference)
    wait_offered(puller, reference, image)

    without = {"holder": [holder], "puller": [puller], "both": [holder, puller], "all": nodes}[where]
    with without_peili(without):
        puller.pull(reference)
        others[0].pull(by_digest(reference, image))

    assert puller.holds(image)
    assert others[0].holds(image)
