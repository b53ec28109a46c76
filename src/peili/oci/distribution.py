"""Request targets of a registry's pull part (distribution-spec, section Pull), parsed once into frozen values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest, InvalidDigest
from peili.oci.errors import ErrorCode, Refusal
from peili.oci.ranges import Span, render_content_range
from peili.oci.reference import InvalidReference, Reference, check_registry, check_repository, check_tag

_RESOURCE = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<name>[^/]+)", re.ASCII | re.DOTALL)
_MAXIMUM_QUERY_FIELDS = 16


class InvalidTarget(ValueError):
    """A target that no registry's pull part could mean; `refusal` is the answer to it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class BaseTarget:
    """`/v2/`: does a registry answer here?"""


@dataclass(frozen=True, slots=True)
class ManifestTarget:
    """A manifest or index by tag or by digest; exactly one of the two is given.

    `registry` is containerd's `ns` query: the upstream registry that the image names, None without the query.
    """

    registry: str | None
    repository: str
    tag: str | None
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class BlobTarget:
    """A blob by digest; `registry` as in ManifestTarget."""

    registry: str | None
    repository: str
    digest: Digest


ContentTarget = ManifestTarget | BlobTarget


def parse_target(target: str) -> BaseTarget | ContentTarget:
    """Parse an HTTP request target in origin form; raise InvalidTarget."""
    try:
        parts = urlsplit(target)
        path = unquote(parts.path, errors="strict")
        fields = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MAXIMUM_QUERY_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one
        raise _invalid(400, ErrorCode.UNSUPPORTED, f"not a request target: {target[:80]!r}") from error
    if path in ("/v2", "/v2/"):
        return BaseTarget()
    found = _RESOURCE.fullmatch(path)
    if found is None:
        raise _invalid(404, ErrorCode.UNSUPPORTED, "only /v2/, manifests and blobs are served here")
    registry = _registry(fields)
    try:
        repository = check_repository(found["repository"])
    except InvalidReference as error:
        raise _invalid(400, ErrorCode.NAME_INVALID, str(error)) from error
    if found["kind"] == "blobs":
        return BlobTarget(registry, repository, _digest(found["name"]))
    if ":" in found["name"]:
        return ManifestTarget(registry, repository, None, _digest(found["name"]))
    try:
        return ManifestTarget(registry, repository, check_tag(found["name"]), None)
    except InvalidReference as error:
        raise _invalid(400, ErrorCode.MANIFEST_UNKNOWN, str(error)) from error


def render_target(target: ContentTarget) -> str:
    """The request target that asks a peer for the same content."""
    kind = "blobs" if isinstance(target, BlobTarget) else "manifests"
    query = f"?ns={quote(target.registry, safe=':')}" if target.registry is not None else ""
    return f"/v2/{target.repository}/{kind}/{name_of(target)}{query}"


def name_of(target: ContentTarget) -> str:
    """The tag, else the digest, as it stands in the path."""
    return target.tag if isinstance(target, ManifestTarget) and target.tag is not None else str(target.digest)


def reference_text(target: ContentTarget) -> str:
    """How an operator would write it, for filters and logs: `registry/repository:tag` or `…@digest`.

    A request without `ns` has no registry: then the repository comes first.
    """
    prefix = f"{target.registry}/" if target.registry is not None else ""
    mark = ":" if isinstance(target, ManifestTarget) and target.tag is not None else "@"
    return f"{prefix}{target.repository}{mark}{name_of(target)}"


def tag_reference(target: ManifestTarget) -> Reference:
    """The full reference of a tag; raise InvalidReference where the registry or the tag is missing."""
    if target.registry is None or target.tag is None:
        raise InvalidReference("a tag is looked up by its registry, repository and tag")
    return Reference(target.registry, target.repository, target.tag)


def _registry(fields: list[tuple[str, str]]) -> str | None:
    named = [value for name, value in fields if name == "ns"]
    if not named:
        return None
    try:
        if len(named) > 1:
            raise InvalidReference("the query `ns` is given more than once")
        return check_registry(named[0])
    except InvalidReference as error:
        raise _invalid(400, ErrorCode.NAME_INVALID, str(error)) from error


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        raise _invalid(400, ErrorCode.DIGEST_INVALID, str(error)) from error


def _invalid(status: int, code: ErrorCode, message: str) -> InvalidTarget:
    return InvalidTarget(Refusal(status, code, message))


def content_headers(descriptor: Descriptor, span: Span | None) -> dict[str, str]:
    """The headers of an answer with this content; `span` where only a part follows (206).

    Content-Length is the caller's, who knows what follows. containerd's HEAD needs the digest and the type
    (containerd, docs/hosts.md and remotes/docker/resolver.go).
    """
    headers = {
        "Content-Type": descriptor.media_type,
        "Docker-Content-Digest": str(descriptor.digest),
        "Accept-Ranges": "bytes",
    }
    if span is not None:
        headers["Content-Range"] = render_content_range(span, descriptor.size)
    return headers
