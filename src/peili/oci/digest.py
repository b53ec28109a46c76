"""Digests: what content is called by (image-spec, descriptor.md, section Digests)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

# Length of the hex part for each registered algorithm that we can compute.
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class InvalidDigest(ValueError):
    """The text is not a digest that Peili can check."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A checked digest: `algorithm` is registered, `hex` has its exact length, in lower case."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `algorithm:hex`; raise InvalidDigest on anything else."""
        algorithm, colon, encoded = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if not colon or length is None:
            raise InvalidDigest(f"unknown digest algorithm in {text[:80]!r}; use one of {', '.join(_HEX_LENGTH)}")
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise InvalidDigest(
                f"a {algorithm} digest has {length} hexadecimal digits in lower case: {text[:160]!r}"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        """The sha256 digest of these bytes."""
        return cls("sha256", hashlib.sha256(content).hexdigest())

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, content: bytes) -> bool:
        """Whether these bytes are the content that this digest names."""
        return hashlib.new(self.algorithm, content).hexdigest() == self.hex

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
