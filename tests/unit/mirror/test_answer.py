"""A peer's answer is held against the question."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.http.message import Headers
from peili.mirror.answer import MAXIMUM_MANIFEST_SIZE, Head, check_body, check_head
from peili.mirror.failure import AttemptFailed, FailureKind, RangeBeyondEnd
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ManifestTarget
from peili.oci.media_types import OCI_INDEX, OCI_MANIFEST
from peili.oci.ranges import RangeRequest, Span

DIGEST = Digest.of(b"content")
OTHER = Digest.of(b"other")
BLOB = BlobTarget("docker.io", "a", DIGEST)
TAG = ManifestTarget("docker.io", "a", "1", None)


def headers(**fields: str) -> Headers:
    return Headers.of({name.replace("_", "-"): value for name, value in fields.items()})


def failure(target: BlobTarget | ManifestTarget, wanted: RangeRequest | None, status: int, fields: Headers,
            length: int | None) -> FailureKind:  # fmt: skip
    with pytest.raises(AttemptFailed) as caught:
        check_head(target, wanted, status, fields, length)
    return caught.value.kind


def test_a_whole_blob_fits() -> None:
    head = check_head(BLOB, None, 200, headers(Docker_Content_Digest=str(DIGEST), Content_Type="a/b"), 7)
    assert head == Head(Descriptor(DIGEST, "a/b", 7), Span(0, 7))


def test_a_blob_needs_no_digest_header_for_its_digest_is_known() -> None:
    assert check_head(BLOB, None, 200, headers(), 7).descriptor.digest == DIGEST


def test_a_part_fits_when_it_is_the_one_that_was_asked_for() -> None:
    fields = headers(Content_Range="bytes 3-6/7")
    assert check_head(BLOB, RangeRequest(3), 206, fields, 4).span == Span(3, 7)


@pytest.mark.parametrize(
    ("content_range", "length"),
    [("bytes 2-6/7", 5), ("bytes 3-5/7", 3), ("bytes 3-6/7", 5), ("bytes 9-6/7", 4), ("bytes */7", 4), ("", 4)],
)
def test_another_part_than_asked_for_is_refused(content_range: str, length: int) -> None:
    fields = headers(Content_Range=content_range)
    assert failure(BLOB, RangeRequest(3), 206, fields, length) is FailureKind.LENGTH


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, FailureKind.NOT_FOUND),
        (401, FailureKind.DENIED),
        (403, FailureKind.DENIED),
        (503, FailureKind.BUSY),
        (500, FailureKind.STATUS),
        (302, FailureKind.STATUS),
        (206, FailureKind.STATUS),
    ],
)
def test_another_status_is_refused(status: int, kind: FailureKind) -> None:
    assert failure(BLOB, None, status, headers(), 7) is kind


def test_a_whole_body_for_a_part_is_refused() -> None:
    assert failure(BLOB, RangeRequest(3), 200, headers(), 7) is FailureKind.STATUS


def test_no_length_is_refused() -> None:
    assert failure(BLOB, None, 200, headers(), None) is FailureKind.LENGTH


def test_another_digest_is_refused() -> None:
    assert failure(BLOB, None, 200, headers(Docker_Content_Digest=str(OTHER)), 7) is FailureKind.DIGEST


def test_a_tag_needs_a_digest() -> None:
    assert failure(TAG, None, 200, headers(Content_Type=OCI_INDEX), 7) is FailureKind.DIGEST


def test_a_manifest_needs_the_type_of_a_manifest() -> None:
    fields = headers(Docker_Content_Digest=str(DIGEST), Content_Type="application/json")
    assert failure(TAG, None, 200, fields, 7) is FailureKind.TYPE


def test_a_huge_manifest_is_refused_by_its_head() -> None:
    fields = headers(Docker_Content_Digest=str(DIGEST), Content_Type=OCI_INDEX)
    assert failure(TAG, None, 200, fields, MAXIMUM_MANIFEST_SIZE + 1) is FailureKind.LENGTH


@pytest.mark.parametrize(("content_range", "size"), [("bytes */7", 7), ("bytes */0", 0), ("bytes */x", None)])
def test_a_range_beyond_the_end_tells_the_size_where_the_peer_does(content_range: str, size: int | None) -> None:
    with pytest.raises(RangeBeyondEnd) as caught:
        check_head(BLOB, RangeRequest(7), 416, headers(Content_Range=content_range), 0)
    assert caught.value.size == size
    assert failure(BLOB, RangeRequest(7), 416, headers(), 0) is FailureKind.RANGE


def test_a_416_that_contradicts_itself_or_answers_no_range_is_the_peers_fault() -> None:
    assert failure(BLOB, RangeRequest(6), 416, headers(Content_Range="bytes */7"), 0) is FailureKind.LENGTH
    assert failure(BLOB, None, 416, headers(Content_Range="bytes */7"), 0) is FailureKind.STATUS


def test_a_missing_key_too_much_to_do_a_bad_range_and_no_descriptor_of_ours_do_not_blame_the_node() -> None:
    blamed = {kind for kind in FailureKind if AttemptFailed(kind, "").blames_node}
    innocent = {FailureKind.NOT_FOUND, FailureKind.BUSY, FailureKind.RANGE, FailureKind.NO_MEANS}
    assert blamed == set(FailureKind) - innocent


def manifest(**fields: object) -> tuple[Descriptor, bytes]:
    body = json.dumps(fields).encode()
    return Descriptor(Digest.of(body), OCI_MANIFEST, len(body)), body


def test_a_body_fits_its_digest_and_its_type() -> None:
    check_body(BLOB, Descriptor(DIGEST, "a/b", 7), b"content")
    check_body(TAG, *manifest(mediaType=OCI_MANIFEST))
    check_body(TAG, *manifest(config={}, layers=[]))


@pytest.mark.parametrize(
    ("body", "kind"), [(b"contenT", FailureKind.DIGEST), (b"conten", FailureKind.LENGTH), (b"", FailureKind.LENGTH)]
)
def test_other_bytes_are_refused(body: bytes, kind: FailureKind) -> None:
    with pytest.raises(AttemptFailed) as caught:
        check_body(BLOB, Descriptor(DIGEST, "a/b", 7), body)
    assert caught.value.kind is kind


@pytest.mark.parametrize("fields", [{"mediaType": OCI_INDEX}, {"manifests": []}, {"mediaType": 5}])
def test_a_manifest_of_another_type_than_its_head_says_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(AttemptFailed) as caught:
        check_body(TAG, *manifest(**fields))
    assert caught.value.kind is FailureKind.TYPE


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(AttemptFailed) as caught:
        check_body(TAG, Descriptor(Digest.of(body), OCI_MANIFEST, len(body)), body)
    assert caught.value.kind is FailureKind.TYPE


@pytest.mark.parametrize("item", [b"[]", b"{}", b"0", b'{"a":{}}'])
def test_a_manifest_that_costs_much_more_memory_than_its_bytes_is_refused_before_it_does(item: bytes) -> None:
    many = b",".join([item] * (MAXIMUM_MANIFEST_SIZE // (len(item) + 1) - 20))
    body = b'{"mediaType":"%s","a":[%s]}' % (OCI_MANIFEST.encode(), many)
    descriptor = Descriptor(Digest.of(body), OCI_MANIFEST, len(body))
    tracemalloc.start()
    try:
        with pytest.raises(AttemptFailed, match="values") as caught:
            check_body(TAG, descriptor, body)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body)
    finally:
        tracemalloc.stop()
    assert caught.value.kind is FailureKind.TYPE


@pytest.mark.parametrize("body", [b'{"layers":[],"layers":[]}', b'{"layers":NaN}'])
def test_a_manifest_that_readers_understand_differently_is_refused(body: bytes) -> None:
    with pytest.raises(AttemptFailed) as caught:
        check_body(TAG, Descriptor(Digest.of(body), OCI_MANIFEST, len(body)), body)
    assert caught.value.kind is FailureKind.TYPE


@settings(deadline=None)
@given(
    st.sampled_from([BLOB, TAG]),
    st.none() | st.builds(RangeRequest, st.integers(0, 20)),
    st.integers(200, 599),
    st.lists(
        st.tuples(
            st.sampled_from(["Content-Range", "Docker-Content-Digest", "Content-Type"]),
            st.sampled_from([str(DIGEST), str(OTHER), OCI_INDEX, "bytes 3-6/7", "bytes 0-0/1", "bytes */3"])
            | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
        )
    ),
    st.none() | st.integers(0, 2**40),
)
def test_any_head_fits_or_fails(
    target: BlobTarget | ManifestTarget,
    wanted: RangeRequest | None,
    status: int,
    fields: list[tuple[str, str]],
    length: int | None,
) -> None:
    try:
        head = check_head(target, wanted, status, Headers(fields), length)
    except AttemptFailed:
        return
    assert head.span.length == length
    assert head.span.stop <= head.descriptor.size
    assert target.digest in (None, head.descriptor.digest)
