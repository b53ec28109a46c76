from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.oci.digest import Digest, InvalidDigest
from peili.oci.distribution import BaseTarget, InvalidTarget, parse_target, render_target
from peili.oci.ranges import (
    InvalidRange,
    UnsatisfiableRange,
    parse_content_range,
    parse_range,
    parse_unsatisfied_range,
)
from peili.oci.reference import InvalidReference, Reference
from tests.properties.effort import examples

TEXT = st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1"))
WORDS = ["/v2/", "a", "/", "manifests/", "blobs/", "sha256:", "0" * 64, "?ns=", "docker.io", ":", "%", "@", "&"]
PIECES = st.lists(st.sampled_from(WORDS) | TEXT, max_size=10).map("".join)


@settings(deadline=None, max_examples=examples(100))
@given(TEXT | PIECES)
def test_any_text_is_a_digest_or_an_invalid_one(text: str) -> None:
    with suppress(InvalidDigest):
        assert str(Digest.parse(text)) == text


@settings(deadline=None, max_examples=examples(100))
@given(TEXT | PIECES)
def test_any_text_is_a_reference_or_an_invalid_one(text: str) -> None:
    with suppress(InvalidReference):
        reference = Reference.parse(text)
        assert Reference.parse(str(reference)) == reference
    with suppress(InvalidReference):
        Reference.parse_familiar(text)


@settings(deadline=None, max_examples=examples(100))
@given(TEXT | PIECES)
def test_any_text_is_a_target_or_an_invalid_one(text: str) -> None:
    with suppress(InvalidTarget):
        target = parse_target(text)
        if not isinstance(target, BaseTarget):
            assert parse_target(render_target(target)) == target


@settings(deadline=None, max_examples=examples(100))
@given(TEXT | st.from_regex(r"bytes=[0-9]*-[0-9]*", fullmatch=True), st.integers(0, 2**63))
def test_any_range_lies_within_the_content(text: str, size: int) -> None:
    wanted = parse_range(text)
    if wanted is not None:
        with suppress(UnsatisfiableRange):
            span = wanted.resolve(size)
            assert 0 <= span.start < span.stop <= size


@settings(deadline=None, max_examples=examples(100))
@given(TEXT | st.from_regex(r"bytes [0-9]+-[0-9]+/[0-9]+", fullmatch=True))
def test_any_content_range_is_consistent_or_invalid(text: str) -> None:
    with suppress(InvalidRange):
        span, size = parse_content_range(text)
        assert 0 <= span.start < span.stop <= size


@settings(deadline=None, max_examples=examples(100))
@given(TEXT | st.from_regex(r"bytes \*/[0-9]+", fullmatch=True))
def test_any_text_is_the_size_of_an_unsatisfied_range_or_an_invalid_one(text: str) -> None:
    with suppress(InvalidRange):
        assert parse_unsatisfied_range(text) >= 0
