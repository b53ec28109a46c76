"""Cold pulls as the settings have them, and what the metrics say afterwards, on real containerds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.integration.lab.cold import ColdPulls, check_bytes, limited_lab, warm_cluster
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node

pytestmark = pytest.mark.containerd

RATE = 100  # Mbit/s that the upstream sends
SIZE = 24 << 20  # bytes of the layer: about two seconds


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with limited_lab(RATE) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return warm_cluster(lab, [*VERSIONS, VERSIONS[0]])


def restarted(nodes: list[Node], *options: str) -> None:
    """Every Peili starts anew with these options."""
    for node in nodes:
        node.stop_peili()
    for node in nodes:
        node.start_peili(*options)
    for node in nodes:
        node.wait_peili()


def pull_together(lab: Lab, nodes: list[Node], name: str) -> ColdPulls:
    registry = lab.registry()
    image = lab.pool.random_image(name, 1, SIZE)
    reference = registry.add(image, f"cold/{name}", "1")
    with ColdPulls(image, registry) as pulls:
        pulls.start_all(nodes, reference)
        pulls.wait()
    check_bytes(nodes, image)
    return pulls


def metric(node: Node, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", node.metrics(), re.MULTILINE)))


def total(nodes: list[Node], name: str) -> float:
    return sum(metric(node, name) for node in nodes)


def test_without_follow_everybody_downloads(lab: Lab, nodes: list[Node]) -> None:
    restarted(nodes, "--no-follow")
    assert pull_together(lab, nodes, "alone").ratio() >= 0.9 * len(nodes)
    assert total(nodes, "peili_follow_growing_bytes_total") == 0


def test_the_metrics_tell_of_a_cold_pull(lab: Lab, nodes: list[Node]) -> None:
    restarted(nodes, "--follow")
    pulls = pull_together(lab, nodes, "together")
    followers = len(nodes) - 1
    assert pulls.ratio() <= 1.3
    # The layer, and what else of the image had to come from upstream.
    assert total(nodes, "peili_follow_leads_total") >= 1
    assert total(nodes, "peili_follow_follows_total") >= followers
    assert total(nodes, "peili_follow_asks_total") >= len(nodes)
    grown = total(nodes, "peili_follow_growing_bytes_total")
    assert 0.5 * followers * SIZE < grown <= followers * (SIZE + 10_000)
    assert total(nodes, "peili_missed_bytes_total") >= SIZE
    assert max(metric(node, "peili_follow_depth") for node in nodes) >= 1


def test_a_fan_out_of_one_makes_a_chain(lab: Lab, nodes: list[Node]) -> None:
    restarted(nodes, "--follow", "--fan-out=1")
    pulls = pull_together(lab, nodes, "chain")
    assert pulls.ratio() <= 1.3
    # A source bears twice what is planned, because a plan is always a little old.
    sizes = sum(layer.size for layer in pulls.image.layers)
    for node in nodes:
        assert metric(node, "peili_sent_bytes_total") <= 3.3 * sizes, "itself, and two others"
    assert max(metric(node, "peili_follow_depth") for node in nodes) >= 2
