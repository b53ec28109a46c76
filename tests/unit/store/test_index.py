from __future__ import annotations

from collections.abc import Collection

import pytest

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key, digest_key
from peili.oci.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, OCTET_STREAM
from peili.oci.reference import Reference
from peili.store import index as index_module
from peili.store.index import Evidence, StoreIndex, Unread
from peili.store.manifests import InvalidManifest, Manifest, parse_manifest
from peili.store.protocol import Kind
from tests.fakes.images import Image, build_image, build_index, describe, index_of, manifest_of

NAME = "docker.io/library/app:1"
INDEX = build_index("index")
IMAGE = INDEX.parts[0]
LAYER = IMAGE.layers[0]


def read(content: bytes) -> Manifest | None:
    try:
        return parse_manifest(content)
    except InvalidManifest:
        return None


def settle(index: StoreIndex, *images: Image) -> None:
    """Read what the index asks for, as a store does, and publish."""
    contents = {digest: content for image in images for digest, content in image.blobs.items()}
    while unread := index.unread():
        for item in unread:
            assert item.size == len(contents[item.digest])
            index.learn(item.digest, read(contents[item.digest]))
    index.publish()


def holding(image: Image, *, without: Collection[Digest] = (), evidence: Evidence = Evidence.WHOLE) -> StoreIndex:
    index = StoreIndex()
    index.set_image(NAME, image.descriptor)
    for digest, content in image.blobs.items():
        if digest not in without:
            index.put(digest, len(content), evidence)
    settle(index, image)
    return index


def test_nothing_is_offered_before_it_is_published() -> None:
    index = StoreIndex()
    index.put(LAYER.digest, LAYER.size, Evidence.VERIFIED)
    index.learn(LAYER.digest, None)
    assert (index.keys(), index.descriptor(LAYER.digest)) == (frozenset(), None)
    index.publish()
    assert index.keys() == {digest_key(LAYER.digest)}


def test_what_may_be_a_manifest_is_read_before_it_is_offered() -> None:
    index = StoreIndex()
    index.put(IMAGE.descriptor.digest, IMAGE.descriptor.size, Evidence.VERIFIED)
    index.publish()
    assert index.keys() == frozenset()
    assert index.unread() == [Unread(IMAGE.descriptor.digest, IMAGE.descriptor.size, Kind.UNKNOWN)]
    settle(index, IMAGE)
    assert index.descriptor(IMAGE.descriptor.digest) == IMAGE.descriptor
    assert index.unread() == []


def test_what_a_manifest_names_is_not_read() -> None:
    index = StoreIndex()
    index.put(IMAGE.descriptor.digest, IMAGE.descriptor.size, Evidence.VERIFIED)
    settle(index, IMAGE)
    index.put(LAYER.digest, LAYER.size, Evidence.VERIFIED)
    assert index.unread() == []
    index.publish()
    assert index.descriptor(LAYER.digest) == LAYER


def test_named_manifests_are_read_first_and_what_they_name_not_at_all() -> None:
    index, more = StoreIndex(), Digest.of(b"more")
    for digest, size in ((LAYER.digest, LAYER.size), (more, 4), (IMAGE.descriptor.digest, IMAGE.descriptor.size)):
        index.put(digest, size, Evidence.VERIFIED)
    index.set_image(NAME, IMAGE.descriptor)
    first = index.unread()
    assert [item.digest for item in first] == [IMAGE.descriptor.digest]
    index.learn(first[0].digest, read(IMAGE.blobs[IMAGE.descriptor.digest]))
    assert [item.digest for item in index.unread()] == [more]
    index.learn(more, None)
    assert index.unread() == []


def test_large_content_that_nobody_names_is_offered_unread() -> None:
    index = StoreIndex()
    index.put(LAYER.digest, 5 * 2**30, Evidence.WHOLE)
    assert index.unread() == []
    index.publish()
    assert index.descriptor(LAYER.digest) == Descriptor(LAYER.digest, OCTET_STREAM, 5 * 2**30)


@pytest.mark.parametrize(
    ("evidence", "size", "offered"),
    [
        (Evidence.WRITING, LAYER.size, True),
        (Evidence.WRITING, LAYER.size - 1, False),
        (Evidence.WHOLE, LAYER.size, True),
        (Evidence.WHOLE, LAYER.size - 1, False),
        (Evidence.VERIFIED, LAYER.size - 1, True),  # the manifest is wrong, the store checked the digest
    ],
)
def test_content_that_is_named_is_offered_with_the_named_size(evidence: Evidence, size: int, offered: bool) -> None:
    index = holding(IMAGE, without=[LAYER.digest])
    index.put(LAYER.digest, size, evidence)
    settle(index, IMAGE)
    assert (index.descriptor(LAYER.digest) is not None) is offered


@pytest.mark.parametrize(("evidence", "offered"), [(Evidence.WRITING, False), (Evidence.WHOLE, True)])
def test_content_that_nobody_names_is_offered_once_it_is_whole(evidence: Evidence, offered: bool) -> None:
    index = StoreIndex()
    index.put(LAYER.digest, LAYER.size, evidence)
    settle(index, IMAGE)
    assert (digest_key(LAYER.digest) in set(index.keys())) is offered


def test_growing_content_is_offered_when_it_has_grown_to_its_size() -> None:
    index = holding(IMAGE, without=[LAYER.digest])
    for size in (0, 1, LAYER.size - 1):
        index.put(LAYER.digest, size, Evidence.WRITING)
        index.publish()
        assert index.descriptor(LAYER.digest) is None
    index.put(LAYER.digest, LAYER.size, Evidence.WRITING)
    index.publish()
    assert index.descriptor(LAYER.digest) == LAYER


def test_where_manifests_disagree_on_a_size_the_content_decides() -> None:
    wrong = Descriptor(LAYER.digest, LAYER.media_type, LAYER.size + 1)
    assert IMAGE.config is not None
    liar = manifest_of(IMAGE.config, [wrong])
    for first, second in (
        (liar, IMAGE.blobs[IMAGE.descriptor.digest]),
        (IMAGE.blobs[IMAGE.descriptor.digest], liar),
    ):
        index = StoreIndex()
        index.put(LAYER.digest, LAYER.size, Evidence.WHOLE)
        for content in (first, second):
            index.put(Digest.of(content), len(content), Evidence.WHOLE)
            index.learn(Digest.of(content), parse_manifest(content))
        index.publish()
        assert index.descriptor(LAYER.digest) == LAYER


def test_a_wrong_size_is_forgotten_with_the_manifest_that_said_it() -> None:
    assert IMAGE.config is not None
    liar = manifest_of(IMAGE.config, [Descriptor(LAYER.digest, LAYER.media_type, LAYER.size + 1)])
    index = StoreIndex()
    index.put(Digest.of(liar), len(liar), Evidence.WHOLE)
    index.learn(Digest.of(liar), parse_manifest(liar))
    index.put(LAYER.digest, LAYER.size, Evidence.WHOLE)
    index.publish()
    assert index.descriptor(LAYER.digest) is None
    index.remove(Digest.of(liar))
    index.publish()
    assert index.descriptor(LAYER.digest) == LAYER


def test_content_that_a_manifest_vouched_for_outlives_it() -> None:
    index = holding(IMAGE, evidence=Evidence.WRITING)
    before = set(index.keys()) - {Key(NAME)}
    index.remove_image(NAME)
    index.remove(IMAGE.descriptor.digest)
    index.publish()
    assert index.keys() == before - {digest_key(IMAGE.descriptor.digest)}


def test_a_manifest_that_another_calls_a_layer_stays_a_manifest() -> None:
    assert IMAGE.config is not None
    liar = manifest_of(IMAGE.config, [Descriptor(IMAGE.descriptor.digest, "text/plain", IMAGE.descriptor.size)])
    index = StoreIndex()
    index.put(Digest.of(liar), len(liar), Evidence.WHOLE)
    index.learn(Digest.of(liar), parse_manifest(liar))
    index.set_image(NAME, IMAGE.descriptor)
    index.put(IMAGE.descriptor.digest, IMAGE.descriptor.size, Evidence.WHOLE)
    settle(index, IMAGE)
    assert index.resolve(Reference.parse(NAME)) == IMAGE.descriptor


@pytest.mark.parametrize(
    ("declared", "said", "expected"),
    [
        (OCI_MANIFEST, DOCKER_MANIFEST, OCI_MANIFEST),  # the content's own word
        ("", DOCKER_MANIFEST, DOCKER_MANIFEST),  # else what names it
        ("", OCI_INDEX, OCI_MANIFEST),  # unless that cannot be: then the shape
        ("", OCTET_STREAM, OCI_MANIFEST),
    ],
)
def test_where_a_manifests_media_type_comes_from(declared: str, said: str, expected: str) -> None:
    assert IMAGE.config is not None
    content = manifest_of(IMAGE.config, IMAGE.layers, media_type=declared)
    digest = Digest.of(content)
    index = StoreIndex()
    index.set_image(NAME, Descriptor(digest, said, len(content)))
    index.put(digest, len(content), Evidence.VERIFIED)
    index.learn(digest, parse_manifest(content))
    index.publish()
    assert index.resolve(Reference.parse(NAME)) == Descriptor(digest, expected, len(content))


def test_a_tag_is_offered_with_its_target_alone() -> None:
    rest = [digest for digest in INDEX.blobs if digest != INDEX.descriptor.digest]
    index = holding(INDEX, without=rest)
    assert index.keys() == {Key(NAME), digest_key(INDEX.descriptor.digest)}


def test_a_tag_comes_and_goes_with_its_target() -> None:
    index = holding(INDEX, without=[INDEX.descriptor.digest])
    assert Key(NAME) not in set(index.keys())
    index.put(INDEX.descriptor.digest, INDEX.descriptor.size, Evidence.WHOLE)
    settle(index, INDEX)
    assert Key(NAME) in set(index.keys())
    index.remove(INDEX.descriptor.digest)
    assert index.resolve(Reference.parse(NAME)) is None
    index.publish()
    assert Key(NAME) not in set(index.keys())


def test_a_removed_tag_leaves_its_content() -> None:
    index = holding(IMAGE)
    index.remove_image(NAME)
    index.remove_image(NAME)
    index.publish()
    assert index.keys() == {digest_key(digest) for digest in IMAGE.blobs}


def test_names_that_are_no_tags_still_tell_what_their_target_is() -> None:
    index = StoreIndex()
    for name in (str(IMAGE.descriptor.digest), f"docker.io/library/app@{IMAGE.descriptor.digest}"):
        index.set_image(name, IMAGE.descriptor)
    index.put(IMAGE.descriptor.digest, IMAGE.descriptor.size, Evidence.VERIFIED)
    settle(index, IMAGE)
    assert index.keys() == {digest_key(IMAGE.descriptor.digest)}


def test_a_walk_replaces_everything() -> None:
    index = holding(INDEX)
    index.replace_images({"docker.io/library/app:2": IMAGE.descriptor})
    index.replace_content({digest: (len(content), Evidence.WHOLE) for digest, content in IMAGE.blobs.items()})
    settle(index, IMAGE)
    assert index.keys() == {Key("docker.io/library/app:2")} | {digest_key(digest) for digest in IMAGE.blobs}
    index.replace_content({})
    index.publish()
    assert index.keys() == frozenset()


def test_a_walk_that_finds_the_same_reads_nothing_again() -> None:
    index = holding(INDEX)
    index.replace_content({digest: (len(content), Evidence.WRITING) for digest, content in INDEX.blobs.items()})
    assert index.unread() == []
    before = index.keys()
    index.publish()
    assert index.keys() == before


def test_content_that_changed_its_size_is_read_again() -> None:
    index = holding(IMAGE)
    index.put(IMAGE.descriptor.digest, IMAGE.descriptor.size + 1, Evidence.WHOLE)
    index.publish()
    assert Key(NAME) not in set(index.keys())
    index.put(IMAGE.descriptor.digest, IMAGE.descriptor.size, Evidence.WHOLE)
    assert [item.digest for item in index.unread()] == [IMAGE.descriptor.digest]
    settle(index, IMAGE)
    assert Key(NAME) in set(index.keys())


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    index = holding(index_of([INDEX, *INDEX.parts]))
    index.replace_content({})
    index.replace_images({})
    index.publish()
    for table in (index._entries, index._images, index._tags, index._tags_of, index._offered, index._touched):
        assert not table
    assert index.unread() == []


def test_counts_and_bytes() -> None:
    index = holding(INDEX)
    assert index.counts() == {
        Kind.TAG: 1,
        Kind.INDEX: 1,
        Kind.MANIFEST: 2,
        Kind.CONFIG: 2,
        Kind.LAYER: 4,
        Kind.UNKNOWN: 0,
    }
    assert index.bytes == INDEX.size
    index.put(Digest.of(b"more"), 1000, Evidence.VERIFIED)
    index.publish()
    index.learn(Digest.of(b"more"), None)
    assert index.bytes == INDEX.size, "not offered before it is published"
    index.publish()
    assert (index.bytes, index.counts()[Kind.UNKNOWN]) == (INDEX.size + 1000, 1)
    index.remove(Digest.of(b"more"))
    index.publish()
    assert (index.bytes, index.counts()[Kind.UNKNOWN]) == (INDEX.size, 0)
    index.counts()[Kind.TAG] = 9
    assert index.counts()[Kind.TAG] == 1, "what a reader does with it changes nothing"


def test_more_content_than_there_is_room_for_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAXIMUM_DIGESTS", 4)
    index = holding(build_image("many", layer_sizes=[1] * 8))
    assert index.full
    assert len(index.keys()) <= 5
    index.replace_content({})
    index.replace_images({})
    assert not index.full


def test_more_images_than_there_is_room_for_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAXIMUM_IMAGES", 2)
    index = StoreIndex()
    for number in range(3):
        index.set_image(f"docker.io/library/app:{number}", IMAGE.descriptor)
    assert index.full


def test_describe_writes_what_parse_reads() -> None:
    assert describe(LAYER) == {"mediaType": LAYER.media_type, "digest": str(LAYER.digest), "size": LAYER.size}
