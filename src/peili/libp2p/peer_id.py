"""Peer ids (libp2p/specs, peer-ids): the multihash of a public key, base58btc or a CIDv1 as text."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from peili.libp2p.errors import Libp2pError

# PublicKey protobuf: field 1 (type) = 1 (Ed25519), field 2 (data) = 32 bytes.
ED25519_PUBLIC_KEY_PREFIX: Final = bytes((0x08, 0x01, 0x12, 0x20))
ED25519_KEY_LENGTH: Final = 32
_IDENTITY, _SHA2_256 = 0x00, 0x12
_MAX_INLINE_KEY: Final = 42  # a longer key is hashed (peer-ids specification)
_MAX_TEXT: Final = 128
_CID_PREFIX: Final = bytes((0x01, 0x72))  # CIDv1, codec libp2p-key

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}


class InvalidPeerId(Libp2pError, ValueError):
    """The text or the bytes name no peer."""


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """Who a peer is: `multihash` is the identity multihash of its public key, or for long keys their sha2-256."""

    multihash: bytes

    def __post_init__(self) -> None:
        raw = self.multihash
        if len(raw) < 3 or raw[1] != len(raw) - 2:
            raise InvalidPeerId(f"not the multihash of a key: {raw[:50].hex()}")
        if not ((raw[0] == _IDENTITY and raw[1] <= _MAX_INLINE_KEY) or (raw[0] == _SHA2_256 and raw[1] == 32)):
            raise InvalidPeerId(f"neither an identity nor a sha2-256 multihash: {raw[:50].hex()}")

    @classmethod
    def of_public_key(cls, public_key: bytes) -> PeerId:
        """The id of an Ed25519 public key of 32 raw bytes."""
        if len(public_key) != ED25519_KEY_LENGTH:
            raise InvalidPeerId(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
        return cls(bytes((_IDENTITY, 36)) + ED25519_PUBLIC_KEY_PREFIX + public_key)

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Parse base58btc (`12D3Koo…`, `Qm…`) or a CIDv1 in base32 (`bafz…`), or raise InvalidPeerId."""
        if len(text) > _MAX_TEXT:
            raise InvalidPeerId(f"too long for a peer id: {text[:60]!r}…")
        if text.startswith("bafz"):
            return cls(_of_cid(text))
        return cls(_base58_decode(text))

    def to_bytes(self) -> bytes:
        """The multihash, as messages carry it."""
        return self.multihash

    def __str__(self) -> str:
        return _base58_encode(self.multihash)


def _of_cid(text: str) -> bytes:
    """The multihash in a CIDv1 of codec libp2p-key in multibase `b` (base32, lower case, unpadded)."""
    digits = text[1:].upper()
    try:
        raw = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except (binascii.Error, ValueError) as error:
        raise InvalidPeerId(f"not base32: {text!r}") from error
    if not raw.startswith(_CID_PREFIX) or not text.islower():
        raise InvalidPeerId(f"not a CIDv1 of a libp2p key: {text!r}")
    return raw[len(_CID_PREFIX) :]


def _base58_encode(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + digits


def _base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise InvalidPeerId(f"not base58btc: {text!r}")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
