from __future__ import annotations

import json

import pytest

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.distribution import (
    BaseTarget,
    BlobTarget,
    InvalidTarget,
    ManifestTarget,
    content_headers,
    parse_target,
    reference_text,
    render_target,
)
from peili.oci.ranges import Span

DIGEST = Digest.of(b"x")


@pytest.mark.parametrize("target", ["/v2/", "/v2", "/v2/?ns=docker.io"])
def test_the_base_is_known(target: str) -> None:
    assert parse_target(target) == BaseTarget()


@pytest.mark.parametrize(
    ("target", "meaning"),
    [
        (
            "/v2/library/alpine/manifests/3?ns=docker.io",
            ManifestTarget("docker.io", "library/alpine", "3", None),
        ),
        (f"/v2/a/manifests/{DIGEST}", ManifestTarget(None, "a", None, DIGEST)),
        (f"/v2/a/b/c/blobs/{DIGEST}?ns=host:5000", BlobTarget("host:5000", "a/b/c", DIGEST)),
        (f"/v2/a/blobs/sha256%3A{DIGEST.hex}?ns=host%3A5000", BlobTarget("host:5000", "a", DIGEST)),
        (f"/v2/manifests/blobs/{DIGEST}", BlobTarget(None, "manifests", DIGEST)),
    ],
)
def test_targets_are_parsed(target: str, meaning: object) -> None:
    assert parse_target(target) == meaning


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/", 404, "UNSUPPORTED"),
        ("/v2/a/tags/list", 404, "UNSUPPORTED"),
        ("/v2/A/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/../b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/manifests/-1", 400, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/md5:00", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/1?ns=", 400, "NAME_INVALID"),
        ("/v2/a/manifests/1?ns=a.b&ns=c.d", 400, "NAME_INVALID"),
        ("/v2/a/manifests/%ff", 400, "UNSUPPORTED"),
        ("/v2/a/manifests/1?" + "x&" * 100, 400, "UNSUPPORTED"),
    ],
)
def test_what_no_registry_means_is_refused_with_the_specifications_body(
    target: str, status: int, code: str
) -> None:
    with pytest.raises(InvalidTarget) as caught:
        parse_target(target)
    assert caught.value.refusal.status == status
    assert json.loads(caught.value.refusal.body())["errors"][0]["code"] == code


@pytest.mark.parametrize(
    "target",
    [
        ManifestTarget("docker.io", "library/alpine", "3", None),
        ManifestTarget("[fd00::1]:5000", "a", None, DIGEST),
        BlobTarget(None, "a/b", DIGEST),
    ],
)
def test_a_rendered_target_means_the_same(target: ManifestTarget | BlobTarget) -> None:
    assert parse_target(render_target(target)) == target


def test_references_read_as_an_operator_writes_them() -> None:
    assert reference_text(ManifestTarget("ghcr.io", "a/b", "1", None)) == "ghcr.io/a/b:1"
    assert reference_text(BlobTarget(None, "a", DIGEST)) == f"a@{DIGEST}"


def test_the_headers_hold_what_containerd_needs() -> None:
    headers = content_headers(Descriptor(DIGEST, "text/plain", 10), Span(2, 10))
    assert headers == {
        "Content-Type": "text/plain",
        "Docker-Content-Digest": str(DIGEST),
        "Accept-Ranges": "bytes",
        "Content-Range": "bytes 2-9/10",
    }
