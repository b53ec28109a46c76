"""`peili check` on real containerds: it sees what is right, and what is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node

pytestmark = pytest.mark.containerd

OF_CONTAINERD = ("socket", "config_path", "discard_unpacked_layers", "content", "version")


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with Lab() as lab:
        lab.registry()
        yield [*lab.containerds(VERSIONS), *lab.containerds(VERSIONS, discard_layers=True)]


@pytest.mark.parametrize("number", range(3), ids=VERSIONS)
def test_a_node_before_and_after_its_configuration(nodes: list[Node], number: int) -> None:
    node = nodes[number]
    found = node.check()
    assert found["hosts.toml"] == "fail"
    assert {name: found[name] for name in OF_CONTAINERD} == dict.fromkeys(OF_CONTAINERD, "ok")

    node.configure()
    assert node.check()["hosts.toml"] == "ok"
    assert "fail" not in node.check().values()


@pytest.mark.parametrize("number", range(3), ids=VERSIONS)
def test_discarded_layers_are_a_warning(nodes: list[Node], number: int) -> None:
    assert nodes[3 + number].check()["discard_unpacked_layers"] == "warn"


@pytest.mark.parametrize("number", range(3), ids=VERSIONS)
def test_a_containerd_that_is_not_running(nodes: list[Node], number: int) -> None:
    node = nodes[3 + number]
    node.containerd.stop()
    assert node.check()["socket"] == "fail"
