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


def test_the_config_follows_a_manifest_with_an_index_before_it_or_not() -> None:
    led, config = LedImages(), BlobTarget("docker.io", "library/a", DIGEST)
    led.remember(manifest(), 0.0)
    assert led.next_one(config, 0.1)
    assert not led.next_one(config, 0.1), "the next small blob may be a layer"
    led.remember(manifest(), 0.2)
    assert led.next_one(manifest(), SECONDS)
    assert led.next_one(config, 2 * SECONDS - 0.1)
    assert not led.next_one(config, 2 * SECONDS - 0.1)


def test_a_blob_is_no_reason_for_another() -> None:
    led, config = LedImages(), BlobTarget("docker.io", "library/a", DIGEST)
    led.remember(config, 0.0)
    assert not led.next_one(manifest(), 0.1)
    assert not led.next_one(config, 0.1)


def test_a_question_for_a_third_manifest_leaves_the_config_expected() -> None:
    led = LedImages()
    led.remember(manifest(), 0.0)
    assert led.next_one(manifest(), 0.1)
    assert not led.next_one(manifest(), 0.2)
    assert led.next_one(BlobTarget("docker.io", "library/a", DIGEST), 0.3)


def test_the_oldest_is_forgotten() -> None:
    led = LedImages()
    for number in range(MAXIMUM_IMAGES + 1):
        led.remember(manifest(f"library/{number}"), 0.0)
    assert not led.next_one(manifest("library/0"), 0.1)
    assert led.next_one(manifest("library/1"), 0.1)
