from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ManifestTarget
from peili.oci.key import Key
from peili.registry.credentials import Credentials, InvalidCredentials
from peili.registry.policy import Policy

DIGEST = Digest.of(b"x")


def tag(registry: str | None = "docker.io", name: str = "1") -> ManifestTarget:
    return ManifestTarget(registry, "library/a", name, None)


def test_everything_is_mirrored_by_default() -> None:
    policy = Policy()
    assert policy.refuses(tag()) is None
    assert policy.refuses(BlobTarget(None, "a", DIGEST)) is None
    assert policy.offers(Key("docker.io/library/a:1"))


def test_only_the_named_registries_are_mirrored() -> None:
    policy = Policy(registries=frozenset({"ghcr.io", "host:5000"}))
    assert policy.refuses(tag("ghcr.io")) is None
    refusal = policy.refuses(tag("docker.io"))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (404, "NAME_UNKNOWN")
    assert policy.refuses(BlobTarget("docker.io", "a", DIGEST)) is not None
    assert policy.offers(Key("host:5000/a:1"))
    assert not policy.offers(Key("docker.io/library/a:1"))
    assert policy.offers(Key(str(DIGEST)))


def test_a_tag_without_ns_belongs_to_the_only_mirrored_registry() -> None:
    one, two = Policy(frozenset({"ghcr.io"})), Policy(frozenset({"ghcr.io", "quay.io"}))
    assert one.refuses(tag(None)) is None
    assert one.registry_of(tag(None)) == "ghcr.io"
    for policy in (two, Policy()):
        refusal = policy.refuses(tag(None))
        assert refusal is not None
        assert refusal.status == 404
        assert "ns" in refusal.message
        assert policy.refuses(ManifestTarget(None, "a", None, DIGEST)) is None


def test_filters_leave_references_alone() -> None:
    policy = Policy(filters=(re.compile(r"^docker\.io/private/"), re.compile(":dev$")))
    assert policy.refuses(tag()) is None
    assert policy.refuses(tag(name="dev")) is not None
    assert policy.refuses(BlobTarget("docker.io", "private/a", DIGEST)) is not None
    assert not policy.offers(Key("docker.io/private/a:1"))
    assert not policy.offers(Key("docker.io/library/a:dev"))


def test_a_filter_that_names_the_registry_holds_without_ns_as_well() -> None:
    policy = Policy(frozenset({"docker.io"}), filters=(re.compile(r"^docker\.io/private/"),))
    for target in (
        ManifestTarget(None, "private/a", "1", None),
        ManifestTarget(None, "private/a", None, DIGEST),
        BlobTarget(None, "private/a", DIGEST),
    ):
        assert policy.refuses(target) is not None
        assert policy.refuses(replace(target, repository="library/a")) is None


def test_tags_and_latest_can_be_left_to_upstream() -> None:
    no_tags, no_latest = Policy(resolve_tags=False), Policy(resolve_latest=False)
    assert no_tags.refuses(tag()) is not None
    assert no_tags.refuses(ManifestTarget("docker.io", "a", None, DIGEST)) is None
    assert not no_tags.offers(Key("docker.io/library/a:1"))
    assert no_latest.refuses(tag()) is None
    assert no_latest.refuses(tag(name="latest")) is not None
    assert not no_latest.offers(Key("host:5000/a:latest"))
    assert no_latest.offers(Key("host:5000/a:1"))


def test_credentials_are_accepted_and_others_are_not() -> None:
    credentials = Credentials.parse("user:pass:word\n")
    assert credentials == Credentials("user", "pass:word")
    assert credentials.accept(credentials.header)
    assert credentials.accept(credentials.header.replace("Basic", "basic"))
    for header in (None, "", "Basic", "Basic x", "Bearer " + credentials.header.split()[1], "Basic \xff\u20ac",
                   "Basic " + base64.b64encode(b"user:password").decode()):  # fmt: skip
        assert not credentials.accept(header)


def test_a_password_is_not_shown() -> None:
    assert "word" not in repr(Credentials("user", "pass:word"))


@pytest.mark.parametrize("text", ["", "\n", "user", "user:", ":password", "a:b\nc:d", "a:\x00"])
def test_what_is_no_credentials_line_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        Credentials.parse(text)
    assert "password" not in str(caught.value).replace("user:password", "")


@settings(deadline=None)
@given(st.text(max_size=100))
def test_any_header_is_refused_but_the_right_one(header: str) -> None:
    assert not Credentials("user", "secret").accept(header)
