from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.oci.media_types import DOCKER_INDEX, DOCKER_MANIFEST, INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST
from peili.store.manifests import InvalidManifest, image_tag_key, parse_layout_index, parse_manifest
from peili.store.protocol import Kind
from tests.fakes.images import build_image, build_index
from tests.properties.effort import examples

IMAGE, INDEX = build_image("properties"), build_index("properties")
VALID = [IMAGE.blobs[IMAGE.descriptor.digest], INDEX.blobs[INDEX.descriptor.digest]]
DIGESTS = st.sampled_from([str(IMAGE.descriptor.digest), "sha512:" + "0" * 128, "md5:00", "sha256:"])
TYPES = st.sampled_from([OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST, "text/plain", ""])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | TYPES | DIGESTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DESCRIPTORS = st.fixed_dictionaries(
    {"digest": DIGESTS, "size": st.integers(0, 2**40)}, optional={"mediaType": TYPES, "annotations": ANY}
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": TYPES | ANY,
        "manifests": st.lists(DESCRIPTORS | ANY, max_size=4) | ANY,
        "config": DESCRIPTORS | ANY,
        "layers": st.lists(DESCRIPTORS, max_size=4) | ANY,
    },
)
BOMBS = [b"[", b'{"a":', b"[[],", b'{"manifests":[', b'"\\ud800', b"1e999,"]
NAME = r"[a-zA-Z.]+(:\d+)?/[a-z/]+(:\w+)?(@sha256:[0-9a-f]{64})?"


def check(content: bytes) -> None:
    for parse in (parse_manifest, parse_layout_index):
        try:
            manifest = parse(content)
        except InvalidManifest:
            continue
        types = {Kind.INDEX: INDEXES, Kind.MANIFEST: MANIFESTS}[manifest.kind]
        assert manifest.media_type in types
        for child in manifest.children:
            assert child.descriptor.size >= 0
            assert child.descriptor.media_type.isprintable()


@settings(deadline=None, max_examples=examples(200))
@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(content: bytes) -> None:
    check(content)


@settings(deadline=None, max_examples=examples(300))
@given(DOCUMENTS)
def test_any_document_parses_or_is_refused(document: object) -> None:
    check(json.dumps(document).encode())


@settings(deadline=None, max_examples=examples(300))
@given(st.sampled_from(VALID), st.data())
def test_a_damaged_manifest_parses_or_is_refused(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    check(content[:start] + data.draw(st.binary(max_size=8)) + content[end:])


@settings(deadline=None, max_examples=examples(60))
@given(
    st.sampled_from([b"[", b'{"a":', b"[[],", b'{"manifests":[', b'"\\ud800', b"1e999,"]), st.integers(1, 30_000)
)
def test_bombs_are_refused(part: bytes, times: int) -> None:
    check(part * times)


@settings(deadline=None, max_examples=examples(200))
@given(
    st.text(max_size=80) | st.from_regex(r"[a-zA-Z.]+(:\d+)?/[a-z/]+(:\w+)?(@sha256:[0-9a-f]{64})?", fullmatch=True)
)
def test_any_image_name_is_a_tag_or_none(name: str) -> None:
    key = image_tag_key(name)
    if key is not None:
        assert image_tag_key(key) == key
        assert "@" not in key
