"""The cluster secret: what may stand in its file, and the keys that are made of it.

Only the keys are kept; neither the secret nor a key appears in a representation, an error or a log line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MINIMUM_LENGTH: Final = 16  # bytes of one secret
MAXIMUM_LENGTH: Final = 1024
MAXIMUM_FILE_SIZE: Final = 4096  # bytes
MAXIMUM_SECRETS: Final = 2  # the one in use, and the one that comes or goes
_KEY_LENGTH: Final = 32  # bytes, as long as the output of SHA-256 (RFC 2104, section 3)
_SALT: Final = b"peili cluster secret"


class InvalidSecret(ValueError):
    """The file holds no usable secret; the text says what is allowed, and never what is in it."""


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """The keys of one secret, one for each purpose, so that a MAC of one is of no use for another."""

    certificate: bytes = field(repr=False)
    request: bytes = field(repr=False)
    answer: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> MemberKeys:
        """Derive the keys (HKDF with SHA-256, RFC 5869)."""
        return cls(*(_derive(secret, purpose) for purpose in (b"certificate 1", b"request 1", b"answer 1")))


def parse_secrets(content: bytes) -> tuple[MemberKeys, ...]:
    """The keys of one or two secrets, one a line; space around them and empty lines do not count.

    The first is the one that we use, all are accepted. Raise InvalidSecret.
    """
    if len(content) > MAXIMUM_FILE_SIZE:
        raise InvalidSecret(f"the file has more than {MAXIMUM_FILE_SIZE} bytes")
    secrets = [line for line in (line.strip(b" \t\r") for line in content.split(b"\n")) if line]
    if not secrets:
        raise InvalidSecret("the file is empty; it has to hold one secret, or two while one replaces the other")
    if len(secrets) > MAXIMUM_SECRETS:
        raise InvalidSecret(f"the file has {len(secrets)} lines; one or two secrets are allowed, one a line")
    for secret in secrets:
        _check(secret)
    return tuple(map(MemberKeys.of, secrets))


def _check(secret: bytes) -> None:
    if len(secret) < MINIMUM_LENGTH:
        raise InvalidSecret(f"a secret has at least {MINIMUM_LENGTH} bytes; make one with `openssl rand -hex 32`")
    if len(secret) > MAXIMUM_LENGTH:
        raise InvalidSecret(f"a secret has at most {MAXIMUM_LENGTH} bytes")
    if any(byte < 0x20 or byte == 0x7F for byte in secret):
        # Random bytes hold line breaks sooner or later, and would then mean two secrets.
        raise InvalidSecret("the file holds control characters; a secret is text, as of `openssl rand -hex 32`")


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_LENGTH, salt=_SALT, info=purpose).derive(secret)
