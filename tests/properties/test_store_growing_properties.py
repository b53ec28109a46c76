"""Whatever the files of an ingest hold, they say a digest and a length or nothing."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from peili.oci.digest import Digest
from peili.store.growing import INGEST_KINDS, ingest_reference, parse_reference, parse_total
from tests.properties.effort import examples

# containerd's identifiers; a reference may hold anything all the same
NAMESPACES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789.-_/", min_size=1, max_size=20)


@settings(deadline=None, max_examples=examples(100))
@given(st.binary(max_size=300), NAMESPACES)
@example(b"k8s.io/1/layer-sha256:00", "k8s.io")
def test_any_bytes_are_a_reference_or_none(text: bytes, namespace: str) -> None:
    found = parse_reference(text, namespace)
    assert found is None or any(ingest_reference(namespace, kind, found).encode() == text for kind in INGEST_KINDS)


@settings(deadline=None, max_examples=examples(100))
@given(st.binary(max_size=40), NAMESPACES, NAMESPACES, st.sampled_from(INGEST_KINDS))
def test_a_reference_is_read_in_its_own_namespace_only(
    content: bytes, namespace: str, other: str, kind: str
) -> None:
    digest = Digest.of(content)
    text = ingest_reference(namespace, kind, digest).encode()
    assert parse_reference(text, namespace) == digest
    assert namespace == other or parse_reference(text, other) is None


@settings(deadline=None, max_examples=examples(100))
@given(st.binary(max_size=40))
@example(b"\xb2")
@example("٣".encode())
def test_any_bytes_are_a_total_or_none(text: bytes) -> None:
    found = parse_total(text)
    assert found is None or 0 <= found < 10**19


@settings(deadline=None, max_examples=examples(100))
@given(st.integers(0, 2**63 - 1))
def test_a_total_is_read_as_it_was_written(total: int) -> None:
    assert parse_total(str(total).encode()) == total
