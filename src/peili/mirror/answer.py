"""Does a peer's answer fit what was asked? Pure decisions on heads and small bodies.

Peers are trusted for nothing that a digest can check; what cannot be checked before it is passed on (a large blob)
is at least held to the length, the range and the digest that were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from peili.http.message import Headers
from peili.mirror.failure import AttemptFailed, FailureKind, RangeBeyondEnd
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest, InvalidDigest
from peili.oci.distribution import ContentTarget, ManifestTarget
from peili.oci.media_types import INDEXES, MANIFESTS, OCTET_STREAM
from peili.oci.ranges import (
    InvalidRange,
    RangeRequest,
    Span,
    UnsatisfiableRange,
    parse_content_range,
    parse_unsatisfied_range,
)
from peili.store.manifests import InvalidManifest, load_object

MAXIMUM_MANIFEST_SIZE = 4 * 1024 * 1024
# Blobs up to this size are read whole and hashed before one byte is passed on.
SMALL_BLOB_SIZE = 1024 * 1024
_MAXIMUM_MEDIA_TYPE_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Head:
    """An accepted head: the whole content's descriptor, and the bytes of it that follow."""

    descriptor: Descriptor
    span: Span


def check_head(
    target: ContentTarget, wanted: RangeRequest | None, status: int, headers: Headers, length: int | None
) -> Head:
    """Hold the head of a peer's answer against the question; raise AttemptFailed.

    `length` is what follows, in bytes, as HTTP framed it.
    """
    _check_status(status, wanted, headers)
    if length is None:
        raise AttemptFailed(FailureKind.LENGTH, "the answer states no length")
    span, size = _span(wanted, headers, length)
    digest = _digest(target, headers)
    media_type = headers.get("Content-Type") or OCTET_STREAM
    if isinstance(target, ManifestTarget):
        if media_type not in INDEXES | MANIFESTS:
            raise AttemptFailed(FailureKind.TYPE, f"not the type of a manifest: {media_type[:80]!r}")
        if size > MAXIMUM_MANIFEST_SIZE:
            raise AttemptFailed(FailureKind.LENGTH, f"a manifest of {size} bytes")
    elif len(media_type) > _MAXIMUM_MEDIA_TYPE_LENGTH:
        raise AttemptFailed(FailureKind.TYPE, "a media type of excessive length")
    return Head(Descriptor(digest, media_type, size), span)


def check_body(target: ContentTarget, descriptor: Descriptor, body: bytes) -> None:
    """Hold a whole small body against its descriptor; raise AttemptFailed. 4 MiB take tens of milliseconds."""
    if len(body) != descriptor.size:
        raise AttemptFailed(FailureKind.LENGTH, f"{len(body)} bytes in place of {descriptor.size}")
    if not descriptor.digest.matches(body):
        raise AttemptFailed(FailureKind.DIGEST, f"the bytes are not those of {descriptor.digest}")
    if isinstance(target, ManifestTarget):
        _check_manifest(body, descriptor.media_type)


def _check_status(status: int, wanted: RangeRequest | None, headers: Headers) -> None:
    if status == (200 if wanted is None else 206):
        return
    if status == 416 and wanted is not None:
        raise _beyond_end(wanted, headers)
    kinds = {
        404: FailureKind.NOT_FOUND,
        401: FailureKind.DENIED,
        403: FailureKind.DENIED,
        503: FailureKind.BUSY,
    }
    raise AttemptFailed(kinds.get(status, FailureKind.STATUS), f"status {status}")


def _beyond_end(wanted: RangeRequest, headers: Headers) -> AttemptFailed:
    try:
        size = parse_unsatisfied_range(headers.get("Content-Range"))
        wanted.resolve(size)
    except InvalidRange:
        return RangeBeyondEnd(None)  # RFC 9110, section 15.5.17: a 416 should state the size, and need not
    except UnsatisfiableRange:
        return RangeBeyondEnd(size)
    return AttemptFailed(FailureKind.LENGTH, f"status 416, though {wanted} lies within {size} bytes")


def _span(wanted: RangeRequest | None, headers: Headers, length: int) -> tuple[Span, int]:
    if wanted is None:
        return Span(0, length), length
    try:
        span, size = parse_content_range(headers.get("Content-Range"))
        expected = wanted.resolve(size)
    except (InvalidRange, UnsatisfiableRange) as error:
        raise AttemptFailed(FailureKind.LENGTH, str(error)) from error
    if span != expected or span.length != length:
        raise AttemptFailed(FailureKind.LENGTH, f"another range than asked for: {headers.get('Content-Range')!r}")
    return span, size


def _digest(target: ContentTarget, headers: Headers) -> Digest:
    text = headers.get("Docker-Content-Digest")
    if text is None and target.digest is not None:
        return target.digest
    try:
        stated = Digest.parse(text or "")
    except InvalidDigest as error:
        raise AttemptFailed(FailureKind.DIGEST, str(error)) from error
    if target.digest is not None and stated != target.digest:
        raise AttemptFailed(FailureKind.DIGEST, f"the answer is about {stated}")
    return stated


def _check_manifest(body: bytes, media_type: str) -> None:
    """The type in the header becomes containerd's descriptor: it has to be the one that the manifest states.

    Read as the store reads manifests: what would take far more memory than its bytes is refused.
    """
    try:
        document = load_object(body)
    except InvalidManifest as error:
        raise AttemptFailed(FailureKind.TYPE, f"no manifest: {error}") from error
    stated = document.get("mediaType")
    fits = stated == media_type if stated is not None else ("manifests" in document) == (media_type in INDEXES)
    if not fits:
        raise AttemptFailed(FailureKind.TYPE, f"the manifest says {str(stated)[:80]!r}, its head {media_type!r}")
