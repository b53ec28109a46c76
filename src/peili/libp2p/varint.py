"""Unsigned varints (multiformats/unsigned-varint): seven bits a byte, least significant group first."""

from __future__ import annotations

from peili.libp2p.errors import Libp2pError

# The specification allows at most nine bytes, so 63 bits; protobuf's negative numbers would need ten.
MAX_LENGTH = 9


class InvalidVarint(Libp2pError, ValueError):
    """The bytes are no varint: longer than nine bytes."""


def encode(number: int) -> bytes:
    """The varint of a number from 0 to 2^63 - 1."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """The number at `offset` and the offset after it; None where the bytes end too early.

    Raise InvalidVarint where nine bytes do not end it. Numbers that are not minimally encoded are read as they
    are, as protobuf does.
    """
    number = shift = 0
    for position in range(offset, min(len(data), offset + MAX_LENGTH)):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position + 1
        shift += 7
    if len(data) - offset >= MAX_LENGTH:
        raise InvalidVarint("a varint has more than 9 bytes")
    return None
