from __future__ import annotations

import json
import tracemalloc

import pytest

from peili.oci.key import Key
from peili.oci.media_types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, OCTET_STREAM
from peili.store.manifests import (
    MAXIMUM_INDEX_CHILDREN,
    MAXIMUM_LAYERS,
    MAXIMUM_MANIFEST_BYTES,
    InvalidManifest,
    image_tag_key,
    parse_layout_index,
    parse_manifest,
)
from peili.store.protocol import Kind
from tests.fakes.images import CONTAINERD_NAME, OCI_NAME, build_image, build_index, describe, index_of, manifest_of

IMAGE = build_image("manifests")
INDEX = build_index("manifests")
DIGEST = str(IMAGE.descriptor.digest)
assert IMAGE.config is not None
CONFIG, LAYER = describe(IMAGE.config), describe(IMAGE.layers[0])


def test_a_manifest_names_its_config_and_its_layers() -> None:
    manifest = parse_manifest(IMAGE.blobs[IMAGE.descriptor.digest])
    assert (manifest.kind, manifest.media_type, manifest.declared) == (Kind.MANIFEST, OCI_MANIFEST, True)
    assert [child.descriptor for child in manifest.children] == [IMAGE.config, *IMAGE.layers]
    assert [child.kind for child in manifest.children] == [Kind.CONFIG, Kind.LAYER, Kind.LAYER]


def test_an_index_names_its_manifests() -> None:
    manifest = parse_manifest(INDEX.blobs[INDEX.descriptor.digest])
    assert (manifest.kind, manifest.media_type, manifest.declared) == (Kind.INDEX, OCI_INDEX, True)
    assert [child.descriptor for child in manifest.children] == [part.descriptor for part in INDEX.parts]
    assert {child.kind for child in manifest.children} == {Kind.MANIFEST}


def test_an_index_may_name_an_index() -> None:
    nested = index_of([INDEX])
    manifest = parse_manifest(nested.blobs[nested.descriptor.digest])
    assert [child.kind for child in manifest.children] == [Kind.INDEX]


def test_without_a_media_type_the_shape_tells() -> None:
    assert IMAGE.config is not None
    manifest = parse_manifest(manifest_of(IMAGE.config, IMAGE.layers, media_type=""))
    assert (manifest.kind, manifest.media_type, manifest.declared) == (Kind.MANIFEST, OCI_MANIFEST, False)
    index = index_of(INDEX.parts, media_type="")
    parsed = parse_manifest(index.blobs[index.descriptor.digest])
    assert (parsed.kind, parsed.media_type, parsed.declared) == (Kind.INDEX, OCI_INDEX, False)


def test_without_a_media_type_dockers_children_make_it_dockers() -> None:
    child = {"mediaType": DOCKER_MANIFEST, "digest": DIGEST, "size": 1}
    assert parse_manifest(json.dumps({"manifests": [child]}).encode()).media_type == DOCKER_INDEX
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": DIGEST, "size": 1}
    manifest = parse_manifest(json.dumps({"config": config, "layers": []}).encode())
    assert manifest.media_type == DOCKER_MANIFEST


def test_a_descriptor_without_a_media_type_is_of_unknown_kind() -> None:
    manifest = parse_manifest(json.dumps({"manifests": [{"digest": DIGEST, "size": 1}]}).encode())
    assert [(child.kind, child.descriptor.media_type) for child in manifest.children] == [
        (Kind.UNKNOWN, OCTET_STREAM)
    ]


def of_children(name: str, count: int) -> bytes:
    fields: dict[str, object] = {name: [LAYER] * count}
    return json.dumps(fields if name == "manifests" else {"config": CONFIG, **fields}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe{\x00}\x00",  # UTF-16
        b"\xef\xbb\xbf{}",  # a byte order mark
        b'{"manifests":null}',
        b'{"manifests":{}}',
        b'{"manifests":[1]}',
        b'{"manifests":[{}]}',
        b'{"layers":[]}',
        b'{"config":{},"layers":[]}',
        b'{"schemaVersion":1,"fsLayers":[],"history":[]}',
        b'{"manifests":[],"manifests":[]}',
        b'{"manifests":[],"x":NaN}',
        b'{"manifests":[],"x":' + b"9" * 10_000 + b"}",
        b'{"manifests":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"x":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"manifests":[' + b"[]," * 200_000 + b"[]]}",
        b'{"manifests":[]}' + b" " * MAXIMUM_MANIFEST_BYTES,
        of_children("manifests", MAXIMUM_INDEX_CHILDREN + 1),
        of_children("layers", MAXIMUM_LAYERS + 1),
        json.dumps({"manifests": [], "config": CONFIG, "layers": []}).encode(),
        json.dumps({"manifests": [], "mediaType": OCI_MANIFEST}).encode(),
        json.dumps({"config": CONFIG, "layers": [], "mediaType": OCI_INDEX}).encode(),
        json.dumps({"manifests": [], "mediaType": "text/plain\r\nX: y"}).encode(),
        json.dumps({"manifests": [], "mediaType": 7}).encode(),
        json.dumps({"manifests": [LAYER | {"size": -1}]}).encode(),
        json.dumps({"manifests": [LAYER | {"size": 1.5}]}).encode(),
        json.dumps({"manifests": [LAYER | {"size": True}]}).encode(),
        json.dumps({"manifests": [LAYER | {"size": 2**63}]}).encode(),
        json.dumps({"manifests": [LAYER | {"digest": "sha256:x"}]}).encode(),
        json.dumps({"manifests": [LAYER | {"digest": None}]}).encode(),
        json.dumps({"manifests": [LAYER | {"annotations": []}]}).encode(),
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidManifest):
        parse_manifest(content)


def test_a_bomb_of_values_is_refused_before_it_is_built() -> None:
    content = b'{"manifests":[],"x":[' + b"[]," * 400_000 + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(InvalidManifest, match="values"):
            parse_manifest(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_as_many_children_as_are_allowed_parse() -> None:
    assert len(parse_manifest(of_children("manifests", MAXIMUM_INDEX_CHILDREN)).children) == MAXIMUM_INDEX_CHILDREN
    assert len(parse_manifest(of_children("layers", MAXIMUM_LAYERS)).children) == MAXIMUM_LAYERS + 1


@pytest.mark.parametrize(
    ("annotations", "tag"),
    [
        ({CONTAINERD_NAME: "docker.io/library/a:1", OCI_NAME: "registry.example/b:2"}, "docker.io/library/a:1"),
        ({CONTAINERD_NAME: "docker.io/library/a:1", OCI_NAME: "1"}, "docker.io/library/a:1"),
        ({OCI_NAME: "registry.example/b:2"}, "registry.example/b:2"),
        ({CONTAINERD_NAME: "nonsense", OCI_NAME: "registry.example/b:2"}, "registry.example/b:2"),
        ({OCI_NAME: "latest"}, None),
        ({OCI_NAME: 7}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_layouts_entry_is_named_by_its_annotations(annotations: object, tag: str | None) -> None:
    content = json.dumps({"manifests": [LAYER | {"annotations": annotations}]}).encode()
    assert [child.tag for child in parse_layout_index(content).children] == [tag]


def test_a_layouts_index_may_be_longer_than_an_images() -> None:
    content = of_children("manifests", 10_000)
    assert len(parse_layout_index(content).children) == 10_000
    with pytest.raises(InvalidManifest):
        parse_manifest(content)


def test_a_layouts_index_is_no_manifest() -> None:
    with pytest.raises(InvalidManifest):
        parse_layout_index(IMAGE.blobs[IMAGE.descriptor.digest])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("docker.io/library/alpine:3", "docker.io/library/alpine:3"),
        ("registry.example:5000/a/b/c:1", "registry.example:5000/a/b/c:1"),
        ("Registry.Example:5000/a/b/c:1", None),
        (DIGEST, None),
        (f"docker.io/library/alpine@{DIGEST}", None),
        (f"docker.io/library/alpine:3@{DIGEST}", None),
        ("alpine:3", None),
        ("docker.io/library/alpine", None),
        ("", None),
    ],
)
def test_only_a_full_reference_with_a_tag_is_a_tag(name: str, key: str | None) -> None:
    assert image_tag_key(name) == (Key(key) if key else None)
