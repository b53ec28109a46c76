"""What a node offers follows what its containerd holds, within seconds, on every version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import OFFER_TIMEOUT, Node, by_digest
from tests.integration.lab.scenario import build, found, layout_tar, stopped, wait_gone, wait_offered
from tests.integration.lab.upstream import Registry
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd


@dataclass(frozen=True, slots=True)
class Scene:
    """A node under test, another one that asks and pulls, and an image of its own for each test."""

    lab: Lab
    registry: Registry
    holder: Node
    asker: Node

    def image(self, name: str, layers: int = 2) -> tuple[Image, str]:
        """An image in the registry, and its reference."""
        image = self.lab.pool.random_image(f"{name}-{self.holder.containerd.suite}", layers)
        return image, self.registry.add(image, f"offers/{name}", self.holder.containerd.suite)

    def asker_pulls_from_the_holder(self, reference: str, image: Image) -> None:
        """The asker pulls while there is no upstream."""
        with stopped(self.registry):
            self.asker.pull(reference)
        assert self.asker.holds(image)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return lab.cluster(VERSIONS)


@pytest.fixture(params=range(3), ids=VERSIONS)
def scene(request: pytest.FixtureRequest, lab: Lab, nodes: list[Node]) -> Scene:
    number: int = request.param
    return Scene(lab, lab.registry(), nodes[number], nodes[(number + 1) % len(nodes)])


def test_a_pull_by_tag_is_offered(scene: Scene) -> None:
    image, reference = scene.image("pulled")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, image)
    scene.asker_pulls_from_the_holder(reference, image)


def test_a_pull_by_digest_offers_no_tag(scene: Scene) -> None:
    image, reference = scene.image("by-digest")
    scene.holder.pull(by_digest(reference, image))
    everything = {blob.digest for blob in image.pulled}
    wait_until(lambda: found(scene.asker, reference, image) == everything, "the digests offered", OFFER_TIMEOUT)
    assert not scene.asker.finds(reference)


def test_an_import_is_offered(scene: Scene, tmp_path: Path) -> None:
    image = scene.lab.pool.random_image(f"imported-{scene.holder.containerd.suite}")
    reference = f"imported.example/nested/name:{scene.holder.containerd.suite}"
    scene.holder.containerd.ctr("images", "import", str(layout_tar(tmp_path / "image.tar", image, reference)))
    wait_offered(scene.asker, reference, image)


def test_a_build_is_offered(scene: Scene) -> None:
    image = scene.lab.pool.random_image(f"built-{scene.holder.containerd.suite}")
    reference = f"built.example/here:{scene.holder.containerd.suite}"
    build(scene.holder, image, reference)
    wait_offered(scene.asker, reference, image)


def test_a_new_tag_of_an_image_is_offered(scene: Scene) -> None:
    image, reference = scene.image("tagged")
    scene.holder.pull(reference)
    other = f"tagged.example/other:{scene.holder.containerd.suite}"
    scene.holder.containerd.ctr("images", "tag", reference, other)
    wait_offered(scene.asker, other, image)


def test_a_moved_tag_leads_to_the_new_image(scene: Scene) -> None:
    old, reference = scene.image("moved")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, old)
    new, _ = scene.image("moved-to")
    scene.registry.add(new, "offers/moved", scene.holder.containerd.suite)
    # Not by a pull: which image a tag leads to is what this node says itself.
    scene.holder.pull(by_digest(reference, new))
    scene.holder.containerd.ctr("images", "tag", "--force", by_digest(reference, new), reference)

    def digest() -> str:
        registry, _, path = reference.partition("/")
        repository, _, tag = path.rpartition(":")
        answer = scene.asker.ask(f"{repository}/manifests/{tag}", ns=registry, method="HEAD")
        return answer.headers.get("docker-content-digest", "")

    wait_until(lambda: digest() == new.top.digest, "the tag leads to the new image", OFFER_TIMEOUT)


def test_a_removed_image_is_no_longer_offered(scene: Scene) -> None:
    image, reference = scene.image("removed")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, image)
    scene.holder.containerd.cri.remove(reference)
    wait_gone(scene.asker, reference, image)


def test_layers_shared_with_another_image_stay_offered(scene: Scene) -> None:
    suite = scene.holder.containerd.suite
    pool = scene.lab.pool
    base = pool.random_layer(f"base-{suite}", 64 * 1024)
    images = [pool.image([base, pool.random_layer(f"own-{suite}-{n}", 1024)]) for n in range(2)]
    references = [scene.registry.add(image, "offers/shared", f"{suite}-{n}") for n, image in enumerate(images)]
    for reference, image in zip(references, images, strict=True):
        scene.holder.pull(reference)
        wait_offered(scene.asker, reference, image)
    scene.holder.containerd.cri.remove(references[0])
    own = images[0].layers[1]
    wait_until(lambda: not scene.asker.finds_blob(references[0], own), "the layer of its own gone", OFFER_TIMEOUT)
    wait_offered(scene.asker, references[1], images[1])


def test_the_other_holder_still_offers_what_one_removes(scene: Scene) -> None:
    image, reference = scene.image("two-holders")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, image)
    scene.asker.pull(reference)
    scene.holder.containerd.cri.remove(reference)
    wait_until(lambda: not scene.holder.finds(reference, local=True), "removed here", OFFER_TIMEOUT)
    wait_offered(scene.holder, reference, image)


def test_everything_is_offered_again_after_containerd_restarts(scene: Scene) -> None:
    image, reference = scene.image("containerd-restarts")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, image)
    scene.holder.containerd.restart()
    wait_until(lambda: scene.holder.ready().status == 200, "ready again", 30)
    wait_offered(scene.asker, reference, image)
    # And what comes after the restart, by the events of the new process.
    later, later_reference = scene.image("after-the-restart")
    scene.holder.pull(later_reference)
    wait_offered(scene.asker, later_reference, later)
    scene.asker_pulls_from_the_holder(reference, image)


def test_peili_waits_for_a_containerd_that_is_away(scene: Scene) -> None:
    image, reference = scene.image("containerd-away")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, image)
    scene.holder.containerd.stop()
    wait_until(lambda: scene.holder.ready().status == 503, "not ready without containerd", 30)
    scene.holder.kill_peili()
    scene.holder.start_peili()
    wait_until(lambda: scene.holder.ready().status == 503, "not ready at the start", 30)
    scene.holder.containerd.start()
    scene.holder.containerd.wait_ready()
    scene.holder.wait_peili()
    wait_offered(scene.asker, reference, image)


def test_what_changed_while_containerd_had_no_peili_is_known_after_its_start(scene: Scene) -> None:
    removed, removed_reference = scene.image("removed-meanwhile")
    scene.holder.pull(removed_reference)
    wait_offered(scene.asker, removed_reference, removed)
    assert scene.holder.stop_peili() == 0
    wait_gone(scene.asker, removed_reference, removed)
    added, added_reference = scene.image("added-meanwhile")
    scene.holder.containerd.cri.remove(removed_reference)
    scene.holder.pull(added_reference)
    scene.holder.start_peili()
    scene.holder.wait_peili()
    wait_offered(scene.asker, added_reference, added)
    assert not scene.asker.finds(removed_reference)


@pytest.mark.parametrize("end", ["terminated", "killed"])
def test_everything_is_offered_again_after_peili_restarts(scene: Scene, end: str) -> None:
    image, reference = scene.image(f"peili-{end}")
    scene.holder.pull(reference)
    wait_offered(scene.asker, reference, image)
    if end == "terminated":
        assert scene.holder.stop_peili() == 0
        # It said goodbye: what it had is not even tried any more.
        wait_gone(scene.asker, reference, image)
    else:
        scene.holder.kill_peili()
    scene.holder.start_peili()
    scene.holder.wait_peili()
    wait_offered(scene.asker, reference, image)
    scene.asker_pulls_from_the_holder(reference, image)
