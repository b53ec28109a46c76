"""Images of every shape, and registries of every name, from peers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image, Pool
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node, by_digest
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Registry, Traffic

pytestmark = pytest.mark.containerd

OTHER_PORT = "registry.lab:5002"
NO_PORT = "plain.lab"
HUB = "docker.io"
MANY = 64  # layers


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        laboratory.registry(OTHER_PORT)
        laboratory.registry(NO_PORT, 80)
        laboratory.registry(HUB, 5003)
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return lab.cluster(VERSIONS)


def everyone_pulls(
    nodes: list[Node], holder: Node, registries: list[Registry], reference: str, image: Image
) -> None:
    """The holder pulls from upstream, the others by tag and by digest without any upstream."""
    second, third = (node for node in nodes if node is not holder)
    holder.pull(reference)
    wait_offered(second, reference, image)
    with stopped(*registries):
        second.pull(reference)
        third.pull(by_digest(reference, image))
    assert all(node.holds(image) for node in nodes)


@pytest.mark.parametrize("holder", range(3), ids=VERSIONS)
def test_several_registries_at_once(lab: Lab, nodes: list[Node], holder: int) -> None:
    """The same repository and tag in four registries, with another image in each."""
    tag = f"from-{holder}"
    images = {}
    for registry in lab.registries:
        image = lab.pool.random_image(f"{registry.name}-{holder}")
        images[registry.add(image, "library/same", tag)] = image
    asker = nodes[(holder + 1) % 3]
    for reference, image in images.items():
        nodes[holder].pull(reference)
        wait_offered(asker, reference, image)

    with stopped(*lab.registries):
        identities = {reference: asker.pull(reference) for reference in images}

    assert identities == {reference: image.config.digest for reference, image in images.items()}


@pytest.mark.parametrize("holder", range(3), ids=VERSIONS)
def test_short_names_of_docker_io(lab: Lab, nodes: list[Node], holder: int) -> None:
    hub = lab.registry(HUB)
    library = lab.pool.random_image(f"library-{holder}")
    user = lab.pool.random_image(f"user-{holder}")
    references = hub.add(library, "library/short", f"v{holder}"), hub.add(user, "somebody/app", f"v{holder}")
    short = f"short:v{holder}", f"somebody/app:v{holder}"
    asker = nodes[(holder + 1) % 3]
    for name, reference, image in zip(short, references, (library, user), strict=True):
        nodes[holder].pull(name)
        wait_offered(asker, reference, image)

    traffic = Traffic(hub)
    for name in short:
        asker.pull(name)

    assert traffic.content() == []
    assert asker.holds(library)
    assert asker.holds(user)


def _many(pool: Pool, name: str) -> Image:
    return pool.image([pool.random_layer(f"{name}-{number}", 2048) for number in range(MANY)])


def _mixed(pool: Pool, name: str) -> Image:
    return pool.image([pool.random_layer(f"{name}-{kind}", 40_000, kind) for kind in ("gzip", "zstd", "none")])


def _docker(pool: Pool, name: str) -> Image:
    return pool.docker_image([pool.random_layer(f"{name}-{number}", 40_000) for number in range(2)])


# By the repository of each; made under a name of its own for each holder.
SHAPES: dict[str, Callable[[Pool, str], Image]] = {
    "nested/deeply/in/a/repository_with/odd--name.s": lambda pool, name: pool.random_image(name),
    "shape/no-index": lambda pool, name: pool.image([pool.random_layer(name, 40_000)], index=False),
    "shape/foreign-platform": lambda pool, name: pool.random_image(name, foreign=True),
    "shape/many-layers": _many,
    "shape/zstd": lambda pool, name: pool.random_image(name, compression="zstd"),
    "shape/mixed": _mixed,
    "shape/docker-media-types": _docker,
    "shape/one-layer-of-several-mebibytes": lambda pool, name: pool.random_image(name, 1, 20 << 20),
}


@pytest.mark.parametrize("holder", range(3), ids=VERSIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_every_shape(lab: Lab, nodes: list[Node], shape: str, holder: int) -> None:
    image = SHAPES[shape](lab.pool, f"{shape.rpartition('/')[2]}-{holder}")
    reference = lab.registry().add(image, shape, f"V1.0-rc_{holder}")
    everyone_pulls(nodes, nodes[holder], [lab.registry()], reference, image)


@pytest.mark.parametrize("holder", range(3), ids=VERSIONS)
def test_layers_of_foreign_platforms_are_not_offered(lab: Lab, nodes: list[Node], holder: int) -> None:
    image = lab.pool.random_image(f"foreign-only-upstream-{holder}", foreign=True)
    reference = lab.registry().add(image, "shape/foreign-layers", str(holder))
    asker = nodes[(holder + 1) % 3]
    nodes[holder].pull(reference)
    wait_offered(asker, reference, image)
    assert not any(asker.finds_blob(reference, blob) for blob in image.foreign)
    assert not any(asker.finds(f"{reference.rpartition(':')[0]}@{blob.digest}") for blob in image.foreign)
