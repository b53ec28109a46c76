"""A peer with wrong bytes of the right length, for real containerds: one failed pull, then another source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.cri import CriError
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.leaks import Leaks
from tests.integration.lab.network import Namespace
from tests.integration.lab.node import OPERATIONS_PORT, PEILI, REGISTRY_PORT, ROUTER_PORT, Node, manifest_path
from tests.integration.lab.processes import Process
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd

ZONE = "--zone=one"  # of the liar and the pullers: it is asked before the honest holder
LAYER = 3 << 20  # bytes: above 1 MiB, below which every blob is checked before it is passed on
LIARS = (9, 10)


class Liar:
    """A Peili whose store is a layout: all but the large layers are as their digests say."""

    def __init__(self, lab: Lab, bootstrap: str, number: int) -> None:
        self.namespace: Namespace = lab.network.node(number)
        self.directory = lab.directory / f"liar-{number}"
        (self.directory / "blobs" / "sha256").mkdir(parents=True)
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._entries: list[dict[str, object]] = []
        self._write_index()
        every = "0.0.0.0"
        words = [
            f"--registry-address={every}:{REGISTRY_PORT}",
            f"--router-address={every}:{ROUTER_PORT}",
            f"--operations-address={every}:{OPERATIONS_PORT}",
            f"--advertise-address={self.namespace.address}",
            f"--bootstrap={bootstrap}",
            f"--store=layout:{self.directory}",
            ZONE,
        ]
        log = lab.directory / f"liar-{number}.log"
        self.process = Process([str(PEILI), "run", *words], log, self.namespace.name)

    def hold(self, image: Image, reference: str) -> None:
        """Offer an image."""
        for blob in image.blobs:
            target = self.directory / "blobs" / "sha256" / blob.path.name
            partial = target.with_suffix(".partial")
            if blob in image.layers:
                partial.write_bytes(bytes(blob.size))
            else:
                shutil.copy(blob.path, partial)
            partial.rename(target)
        annotations = {"io.containerd.image.name": reference}
        self._entries.append(image.top.descriptor(annotations=annotations))
        self._write_index()

    def offers(self, reference: str, image: Image) -> bool:
        """Whether its Peili answers for the layers."""
        registry, path = manifest_path(reference)
        repository = path.partition("/manifests/")[0]
        targets = [f"/v2/{repository}/blobs/{layer.digest}?ns={registry}" for layer in image.layers]
        fields = {"X-Peili-Mirrored": "true"}
        here = ("127.0.0.1", REGISTRY_PORT)
        return all(
            self.namespace.get(*here, target, method="HEAD", headers=fields).status == 200 for target in targets
        )

    def _write_index(self) -> None:
        path: Path = self.directory / "index.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"schemaVersion": 2, "manifests": self._entries}))
        partial.rename(path)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def holder(lab: Lab) -> Node:
    [node] = lab.cluster(VERSIONS[-1:])
    return node


@pytest.fixture(scope="module")
def leaks() -> Leaks:
    return Leaks(strangers=True)


@pytest.fixture(params=VERSIONS)
def puller(request: pytest.FixtureRequest, lab: Lab, leaks: Leaks, holder: Node) -> Iterator[Node]:
    """A node that has met no liar yet."""
    assert holder in lab.nodes
    [node] = lab.cluster([request.param], ZONE)
    with leaks.none([holder, node]):
        yield node
    node.stop_peili()


@pytest.fixture(scope="module")
def liars(lab: Lab, holder: Node) -> Iterator[list[Liar]]:
    liars = [Liar(lab, f"static:{holder.namespace.address}:{ROUTER_PORT}", number) for number in LIARS]
    yield liars
    for liar in liars:
        liar.process.kill()
        liar.namespace.down()


@pytest.fixture
def liar(liars: list[Liar]) -> Liar:
    return liars[0]


def thrown_away(node: Node) -> float:
    lines = node.metrics().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("peili_bodies_thrown_away_total "))


def pull_with_one_failure(node: Node, reference: str) -> None:
    """The pull fails, because containerd finds out; the next one succeeds."""
    with pytest.raises(CriError, match="unexpected commit digest"):
        node.pull(reference)
    wait_until(lambda: thrown_away(node) > 0, "the liar is known")
    node.pull(reference)


def test_the_retry_comes_from_the_honest_holder(lab: Lab, holder: Node, liar: Liar, puller: Node) -> None:
    name = puller.containerd.suite
    image = lab.pool.random_image(f"lie-{name}", 4, LAYER)
    reference = lab.registry().add(image, "lies/holder", name)
    holder.pull(reference)
    liar.hold(image, reference)
    wait_offered(puller, reference, image)
    wait_until(lambda: liar_is_asked(puller, reference, image, liar), "the liar offers it")

    with stopped(lab.registry()):
        pull_with_one_failure(puller, reference)
    assert puller.holds(image)

    another = lab.pool.random_image(f"lie-{name}-2", 2, LAYER)
    reference = lab.registry().add(another, "lies/again", name)
    holder.pull(reference)
    liar.hold(another, reference)
    wait_offered(puller, reference, another)
    with stopped(lab.registry()):
        puller.pull(reference)  # nothing of the liar any more
    assert puller.holds(another)


def test_where_only_the_liar_has_it_the_retry_goes_upstream(
    lab: Lab, holder: Node, liar: Liar, puller: Node
) -> None:
    name = puller.containerd.suite
    image = lab.pool.random_image(f"only-{name}", 2, LAYER)
    reference = lab.registry().add(image, "lies/only", name)
    liar.hold(image, reference)
    wait_offered(puller, reference, image)

    traffic = Traffic(lab.registry())
    pull_with_one_failure(puller, reference)
    assert puller.holds(image)
    asked = {request.uri.partition("?")[0].rpartition("/")[2] for request in traffic.content() if request.blob}
    assert asked == {layer.digest for layer in image.layers}


@pytest.mark.parametrize("puller", VERSIONS[-1:], indirect=True)
def test_two_liars_cost_one_attempt(lab: Lab, holder: Node, liars: list[Liar], puller: Node) -> None:
    """Both are asked before the honest holder, and upstream is away: the second liar is seen through."""
    image = lab.pool.random_image("lie-twice", 1, LAYER)
    reference = lab.registry().add(image, "lies/two", "1")
    holder.pull(reference)
    for liar in liars:
        liar.hold(image, reference)
        wait_until(lambda liar=liar: liar.offers(reference, image), "this liar offers it")  # type: ignore[misc]
    wait_offered(puller, reference, image)
    wait_until(lambda: liar_is_asked(puller, reference, image, *liars), "a liar is asked first")

    with stopped(lab.registry()):
        pull_with_one_failure(puller, reference)
    assert puller.holds(image)


def liar_is_asked(node: Node, reference: str, image: Image, *liars: Liar) -> bool:
    """Whether the first provider of a layer is one of these."""
    assert node.finds_blob(reference, image.layers[0])
    text = node.log.read_text(errors="replace")
    last = [line for line in text.splitlines() if image.layers[0].digest in line][-1]
    return any(f"{liar.namespace.address}:" in last for liar in liars)
