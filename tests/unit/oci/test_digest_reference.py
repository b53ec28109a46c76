from __future__ import annotations

import hashlib

import pytest

from peili.oci.digest import Digest, InvalidDigest
from peili.oci.key import digest_key, tag_key
from peili.oci.reference import InvalidReference, Reference

HEX = hashlib.sha256(b"layer").hexdigest()


def test_a_digest_names_its_content() -> None:
    digest = Digest.of(b"layer")
    assert digest == Digest.parse(f"sha256:{HEX}")
    assert digest.matches(b"layer")
    assert not digest.matches(b"other")
    assert str(digest) == f"sha256:{HEX}"
    assert digest_key(digest) == f"sha256:{HEX}"


def test_sha512_is_checked_with_its_own_algorithm() -> None:
    digest = Digest.parse("sha512:" + hashlib.sha512(b"layer").hexdigest())
    assert digest.matches(b"layer")
    assert not digest.matches(b"other")


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", f"sha256:{HEX[:-1]}", f"sha256:{HEX.upper()}", f"md5:{HEX[:32]}", f"sha512:{HEX}",
     f"sha256:{HEX}\n", f" sha256:{HEX}", "sha256:" + "٠" * 64],
)  # fmt: skip
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("docker.io/library/alpine:3", "docker.io", "library/alpine", "3"),
        ("localhost/app:v1", "localhost", "app", "v1"),
        ("localhost:5000/a/b/c:v1", "localhost:5000", "a/b/c", "v1"),
        ("Ghcr.IO/Org".lower() + "/x_y--z:V.1-2", "ghcr.io", "org/x_y--z", "V.1-2"),
        ("[fd00::1]:5000/app:1", "[fd00::1]:5000", "app", "1"),
    ],
)
def test_a_full_reference_has_its_parts(text: str, registry: str, repository: str, tag: str) -> None:
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag) == (registry, repository, tag)
    assert str(reference) == text
    assert tag_key(reference) == text


def test_a_reference_may_have_a_tag_and_a_digest() -> None:
    reference = Reference.parse(f"ghcr.io/app:v1@sha256:{HEX}")
    assert reference.digest == Digest.parse(f"sha256:{HEX}")
    assert tag_key(reference) == "ghcr.io/app:v1"
    with pytest.raises(InvalidReference):
        tag_key(Reference.parse(f"ghcr.io/app@sha256:{HEX}"))


@pytest.mark.parametrize(
    "text",
    ["", "alpine", "alpine:3", "library/alpine:3", "docker.io/library/alpine", "docker.io/Alpine:3",
     "docker.io//a:1", "docker.io/a:", "docker.io/a:-x", "docker.io/a@sha256:00", "host:0/a:1",
     "host:99999/a:1", "docker.io/a:1\n",
     f"sha256:{HEX}", "ex ample.com/a:1", "docker.io/" + "a" * 300 + ":1"],
)  # fmt: skip
def test_what_is_no_full_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("org/app", "docker.io/org/app:latest"),
        ("index.docker.io/org/app:1", "docker.io/org/app:1"),
        ("ghcr.io/org/app:1", "ghcr.io/org/app:1"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
    ],
)
def test_familiar_names_are_completed(typed: str, meant: str) -> None:
    assert str(Reference.parse_familiar(typed)) == meant
