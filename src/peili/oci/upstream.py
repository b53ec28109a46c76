"""Upstream registries as an operator names them: by URL, or by host[:port] alone.

`peili run` and `peili configure` read the same setting, PEILI_MIRRORED_REGISTRY, and have to understand the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from peili.oci.reference import InvalidReference, check_registry

# Docker's hub: images say docker.io, containerd asks for all its names as that, and the registry answers elsewhere
# (containerd, docs/hosts.md).
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_NAMES = frozenset({_DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_DOCKER_HUB_SERVER = "https://registry-1.docker.io"
_ADVICE = "write https://host[:port], http://host[:port] or host[:port]"
# urlsplit drops tabs and newlines silently.
_PRINTABLE = re.compile(r"[^\x00-\x20\x7f\ud800-\udfff]+")


class InvalidUpstream(ValueError):
    """The text names no upstream registry; it says what is allowed."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry by the name that images use (`host[:port]`), and the URL where it is reached."""

    host: str
    server: str


def parse_upstream(text: str) -> Upstream:
    """A registry's URL, or its host[:port] for https; raise InvalidUpstream."""
    parts = _split(text)
    if "@" in parts.netloc:
        raise InvalidUpstream("no user or password belongs into the URL")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise InvalidUpstream(f"a registry is named without a path; {_ADVICE}")
    try:
        host = check_registry(parts.netloc)
    except InvalidReference as error:
        raise InvalidUpstream(f"{error}; {_ADVICE}") from error
    if host in _DOCKER_HUB_NAMES:
        return Upstream(_DOCKER_HUB, _DOCKER_HUB_SERVER)
    return Upstream(host, f"{parts.scheme}://{host}")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError as error:
        raise InvalidUpstream(f"not a URL ({error}); {_ADVICE}") from error
    if parts.scheme not in {"http", "https"} or not parts.netloc or not _PRINTABLE.fullmatch(text):
        raise InvalidUpstream(f"not a registry's URL; {_ADVICE}")
    return parts
