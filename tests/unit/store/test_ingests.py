"""Ingests as files: which are found, and what is made of files that a store would not write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from peili.oci.digest import Digest
from peili.store import growing
from peili.store.growing import (
    MAXIMUM_TOTAL_DIGITS,
    GrowingFile,
    Ingests,
    ingest_reference,
    parse_reference,
    parse_total,
)
from tests.fakes.ingests import MEBIBYTE, FileIncoming, layer_of

DESCRIPTOR, CONTENT = layer_of("ingests", 2 * MEBIBYTE)
NAMESPACE = "k8s.io"


@pytest.fixture
def incoming(tmp_path: Path) -> Iterator[FileIncoming]:
    incoming = FileIncoming(tmp_path, NAMESPACE, DESCRIPTOR, CONTENT)
    yield incoming
    incoming.close()


def opened(found: Ingests, root: Path) -> GrowingFile:
    blob = found.open(root, DESCRIPTOR.digest)
    assert blob is not None
    return blob


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_each_kind_of_content_is_found_and_other_namespaces_are_not(tmp_path: Path) -> None:
    found = Ingests(NAMESPACE)
    for kind in growing.INGEST_KINDS:
        descriptor, content = layer_of(kind, 10)
        other, other_content = layer_of(f"other {kind}", 10)
        mine = FileIncoming(tmp_path, NAMESPACE, descriptor, content, kind)
        theirs = FileIncoming(tmp_path, "moby", other, other_content, kind)
        blob = found.open(tmp_path, descriptor.digest)
        assert blob is not None
        blob.close()
        assert found.open(tmp_path, other.digest) is None
        mine.close()
        theirs.close()
    assert len(found.list(tmp_path)) == len(growing.INGEST_KINDS)


def test_what_containerd_does_not_name_is_nothing() -> None:
    named = ingest_reference(NAMESPACE, "layer", DESCRIPTOR.digest).encode()
    assert parse_reference(named, NAMESPACE) == DESCRIPTOR.digest
    for text in (None, b"", named.replace(b"layer-", b"parts-"), named[:-1], named + b"\n", named.upper()):
        assert parse_reference(text, NAMESPACE) is None
    assert parse_total(b"9" * MAXIMUM_TOTAL_DIGITS) == int("9" * MAXIMUM_TOTAL_DIGITS)
    assert parse_total(b"9" * (MAXIMUM_TOTAL_DIGITS + 1)) is None


def test_of_two_ingests_of_a_digest_the_one_that_grew_last_counts(tmp_path: Path) -> None:
    found = Ingests(NAMESPACE)
    left = FileIncoming(tmp_path, NAMESPACE, DESCRIPTOR, CONTENT, "layer")
    left.write_to(100)
    left.close()
    os.utime(left.directory / "data", (1, 1))
    active = FileIncoming(tmp_path, NAMESPACE, DESCRIPTOR, CONTENT, "unknown")
    active.write_to(7)
    before = open_descriptors()
    with opened(found, tmp_path) as blob:
        assert blob.size() == 7
    assert open_descriptors() == before
    active.close()


@pytest.mark.parametrize("total", [None, b"", b"-1", b"1e3", b"12345678901234567890", b"10\n"])
def test_without_a_total_nothing_is_served(tmp_path: Path, incoming: FileIncoming, total: bytes | None) -> None:
    path = incoming.directory / "total"
    path.unlink()
    if total is not None:
        path.write_bytes(total)
    found = Ingests(NAMESPACE)
    before = open_descriptors()
    assert found.open(tmp_path, DESCRIPTOR.digest) is None
    assert found.list(tmp_path) == []
    assert open_descriptors() == before


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, incoming: FileIncoming) -> None:
    data = incoming.directory / "data"
    found = Ingests(NAMESPACE)
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    assert found.open(tmp_path, DESCRIPTOR.digest) is None
    data.unlink()
    os.mkfifo(data)
    assert found.open(tmp_path, DESCRIPTOR.digest) is None


async def test_a_committed_file_is_remembered_for_a_moment_and_only_if_it_was_seen_growing(
    tmp_path: Path, incoming: FileIncoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, fresh = Ingests(NAMESPACE), Ingests(NAMESPACE)
    opened(seen, tmp_path).close()
    await incoming.finish()
    with opened(seen, tmp_path) as blob:
        assert blob.committed()
        assert (blob.size(), blob.total) == (len(CONTENT), len(CONTENT))
    assert fresh.open(tmp_path, DESCRIPTOR.digest) is None
    monkeypatch.setattr(growing, "REMEMBERED_SECONDS", 0.0)
    assert seen.open(tmp_path, DESCRIPTOR.digest) is None


async def test_another_file_under_the_same_digest_is_not_taken_for_the_one_that_grew(
    tmp_path: Path, incoming: FileIncoming
) -> None:
    found = Ingests(NAMESPACE)
    opened(found, tmp_path).close()
    await FileIncoming(tmp_path, "moby", DESCRIPTOR, CONTENT).finish()  # another namespace was faster
    await incoming.fail()
    assert found.open(tmp_path, DESCRIPTOR.digest) is None


def test_no_more_digests_are_remembered_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "MAXIMUM_REMEMBERED", 2)
    found = Ingests(NAMESPACE)
    digests: list[Digest] = []
    for number in range(4):
        descriptor, content = layer_of(str(number), 10)
        FileIncoming(tmp_path, NAMESPACE, descriptor, content).close()
        blob = found.open(tmp_path, descriptor.digest)
        assert blob is not None
        blob.close()
        digests.append(descriptor.digest)
    assert list(found._remembered) == digests[2:]


def test_listing_leaves_out_what_is_no_ingest_and_is_bounded(
    tmp_path: Path, incoming: FileIncoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Ingests(NAMESPACE)
    assert found.list(tmp_path / "missing") == []
    (tmp_path / "ingest" / "empty").mkdir()
    (tmp_path / "ingest" / "file").write_text("no directory")
    (ingest,) = found.list(tmp_path)
    assert (ingest.digest, ingest.size, ingest.total) == (DESCRIPTOR.digest, 0, len(CONTENT))
    monkeypatch.setattr(growing, "MAXIMUM_INGESTS", 0)
    assert found.list(tmp_path) == []
