"""References: the names of images (distribution-spec, section Pulling manifests; containerd's reference grammar).

A reference here always names its registry, as containerd's image store writes it: `docker.io/library/alpine:3`,
never `alpine:3`. `parse_familiar` is for what people type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from peili.oci.digest import Digest, InvalidDigest

MAXIMUM_REFERENCE_LENGTH = 1024
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?", re.ASCII)
_MAXIMUM_REPOSITORY_LENGTH = 255


class InvalidReference(ValueError):
    """The text is not a reference, or lacks a part that it must have."""


def check_registry(text: str) -> str:
    """A registry's `host` or `host:port`, in lower case; raise InvalidReference on anything else."""
    if len(text) > 255 + 6 or not _REGISTRY.fullmatch(text):
        raise InvalidReference(f"not a registry's host[:port]: {text[:80]!r}")
    port = text.rpartition(":")[2] if not text.endswith("]") and ":" in text else ""
    if port and not 0 < int(port) <= 65535:
        raise InvalidReference(f"a registry's port lies between 1 and 65535: {text[:80]!r}")
    return text.lower()


def check_repository(text: str) -> str:
    """A repository's name; raise InvalidReference on anything else."""
    if len(text) > _MAXIMUM_REPOSITORY_LENGTH or not _REPOSITORY.fullmatch(text):
        raise InvalidReference(f"not a repository name: {text[:80]!r}")
    return text


def check_tag(text: str) -> str:
    """A tag; raise InvalidReference on anything else."""
    if not _TAG.fullmatch(text):
        raise InvalidReference(f"not a tag (letters, digits, '.', '_', '-', at most 128): {text[:140]!r}")
    return text


@dataclass(frozen=True, slots=True)
class Reference:
    """An image by name: a registry, a repository, and a tag or a digest or both."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a full reference `registry/repository[:tag][@digest]`; raise InvalidReference.

        A first component without a dot, a port or the name localhost is not a registry (containerd's rule).
        """
        if len(text) > MAXIMUM_REFERENCE_LENGTH:
            raise InvalidReference(f"a reference of more than {MAXIMUM_REFERENCE_LENGTH} characters: {text[:80]!r}")
        registry, slash, rest = text.partition("/")
        if not slash or not _looks_like_registry(registry):
            raise InvalidReference(
                f"the reference names no registry: {text[:80]!r}; write it as docker.io/library/…"
            )
        name, at, digest_text = rest.partition("@")
        repository, colon, tag = name.partition(":")
        try:
            digest = Digest.parse(digest_text) if at else None
        except InvalidDigest as error:
            raise InvalidReference(str(error)) from error
        if not colon and digest is None:
            raise InvalidReference(f"the reference has neither a tag nor a digest: {text[:80]!r}")
        return cls(
            check_registry(registry), check_repository(repository), check_tag(tag) if colon else None, digest
        )

    @classmethod
    def parse_familiar(cls, text: str) -> Reference:
        """Parse what people type: `alpine` means docker.io/library/alpine:latest (Docker's normalisation)."""
        first, slash, rest = text.partition("/")
        if not slash:
            text = f"docker.io/library/{text}"
        elif not _looks_like_registry(first):
            text = f"docker.io/{text}"
        elif first == "index.docker.io":
            text = f"docker.io/{rest}"
        last = text.rpartition("/")[2]
        return cls.parse(text if ":" in last or "@" in last else f"{text}:latest")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def _looks_like_registry(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"
