"""A bounded reader and writer of protobuf's wire format, for this room's messages (protobuf.dev, Encoding).

The room imports no other, so it carries its own; unknown fields are stepped over, so that messages can grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_FIELDS: Final = 512  # of one message, known or not
MAX_NUMBER: Final = (1 << 63) - 1  # what we write and read: an offset never has the sign bit of a signed reader
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1
_MAX_VARINT_LENGTH: Final = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class InvalidFollowMessage(ValueError):
    """These bytes are not a message of the follow protocol; the peer that sent them is at fault."""


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and bytes fields in their order, as (field number, value); other wire types are stepped over."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at == len(data):
            return
        tag, at = _read_number(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise InvalidFollowMessage(f"field number {number}")
        if wire_type == _VARINT:
            value, at = _read_number(data, at)
            yield number, value
        elif wire_type == _BYTES:
            length, at = _read_number(data, at)
            if length > len(data) - at:
                raise InvalidFollowMessage("a field is cut off")
            yield number, data[at : at + length]
            at += length
        elif wire_type in {_FIXED64, _FIXED32}:
            at += 8 if wire_type == _FIXED64 else 4
            if at > len(data):
                raise InvalidFollowMessage("a field is cut off")
        else:
            raise InvalidFollowMessage(f"wire type {wire_type}")
    if at != len(data):
        raise InvalidFollowMessage(f"more than {MAX_FIELDS} fields")


def number_field(number: int, value: int) -> bytes:
    """A number; nothing for 0, the default. Raise ValueError outside 0..MAX_NUMBER."""
    return _write_number(number << 3 | _VARINT) + _write_number(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Bytes, also when they are empty."""
    return _write_number(number << 3 | _BYTES) + _write_number(len(value)) + value


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position in range(_MAX_VARINT_LENGTH):
        if at >= len(data):
            raise InvalidFollowMessage("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if value > MAX_NUMBER:
                raise InvalidFollowMessage(f"a number above {MAX_NUMBER}")
            return value, at
    raise InvalidFollowMessage(f"a number has more than {_MAX_VARINT_LENGTH} bytes")


def _write_number(value: int) -> bytes:
    if not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"not a number between 0 and {MAX_NUMBER}: {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
