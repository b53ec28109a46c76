"""Descriptors: what a digest names, how it is to be read and how long it is (image-spec, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass

from peili.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by digest. `size` in bytes; `media_type` is application/octet-stream where nobody knows better."""

    digest: Digest
    media_type: str
    size: int
