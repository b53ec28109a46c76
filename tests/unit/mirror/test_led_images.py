from __future__ import annotations

from peili.mirror.led_images import MAXIMUM_IMAGES, SECONDS, LedImages
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ManifestTarget

DIGEST = Digest.parse("sha256:" + "1" * 64)


def manifest(repository: str = "library/a", registry: str | None = "docker.io") -> ManifestTarget:
    return ManifestTarget(registry, repository, None, DIGEST)


def test_one_manifest_follows_an_index() -> None:
    led = LedImages()
    led.remember(manifest(), 0.0)
    assert led.next_one(manifest(), 0.1)
    assert not led.next_one(manifest(), 0.1), "the next question is asked again"


def test_not_later_and_not_of_another_repository_or_registry() -> None:
    led = LedImages()
    led.remember(manifest(), 0.0)
    assert not led.next_one(manifest("library/b"), 0.1)
    assert not led.next_one(manifest(registry=None), 0.1)
    assert not led.next_one(manifest(), SECONDS)


def test_blobs_have_nothing_to_do_with_it() -> None:
    led = LedImages()
    led.remember(BlobTarget("docker.io", "library/a", DIGEST), 0.0)
    assert not led.next_one(manifest(), 0.1)
    led.remember(manifest(), 0.2)
    assert not led.next_one(BlobTarget("docker.io", "library/a", DIGEST), 0.3)
    assert led.next_one(manifest(), 0.3)


def test_the_oldest_is_forgotten() -> None:
    led = LedImages()
    for number in range(MAXIMUM_IMAGES + 1):
        led.remember(manifest(f"library/{number}"), 0.0)
    assert not led.next_one(manifest("library/0"), 0.1)
    assert led.next_one(manifest("library/1"), 0.1)
