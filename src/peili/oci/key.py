"""Keys: what nodes look each other's content up by.

A key is a digest (`sha256:…`) or a full reference with a tag (`docker.io/library/alpine:3`): the strings that
Spegel uses as well, so that both kinds of node find each other's content.
"""

from __future__ import annotations

from typing import NewType

from peili.oci.digest import Digest
from peili.oci.reference import InvalidReference, Reference

Key = NewType("Key", str)


def digest_key(digest: Digest) -> Key:
    """The key of content by digest."""
    return Key(str(digest))


def tag_key(reference: Reference) -> Key:
    """The key of a tag; raise InvalidReference where the reference has none."""
    if reference.tag is None:
        raise InvalidReference(f"the reference has no tag: {reference}")
    return Key(f"{reference.registry}/{reference.repository}:{reference.tag}")
