"""A bounded reader and writer of protobuf's wire format: the two wire types that our messages use.

Source: protobuf.dev, Encoding. Written by hand because the messages are few and memory counts; unknown fields
are stepped over, as proto3 asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_FIELDS: Final = 4096  # of one message; each costs a microsecond, so a megabyte of empty fields is refused
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1
_UINT64: Final = (1 << 64) - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class InvalidMessage(ValueError):
    """These bytes are not a message that this node understands; the peer that sent them is at fault."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at an offset, as 64 bits, and the offset behind it."""
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise InvalidMessage("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT64, at
        shift += 7
    raise InvalidMessage("a number has more than ten bytes")


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The varint and length-delimited fields in their order, as (number, value); others are stepped over."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at == len(data):
            return
        tag, at = read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise InvalidMessage(f"field number {number}")
        if wire_type == _VARINT:
            value, at = read_varint(data, at)
            yield number, value
        elif wire_type == _BYTES:
            length, at = read_varint(data, at)
            if length > len(data) - at:
                raise InvalidMessage("a field is cut off")
            yield number, data[at : at + length]
            at += length
        elif wire_type in {_FIXED64, _FIXED32}:
            at += 8 if wire_type == _FIXED64 else 4
            if at > len(data):
                raise InvalidMessage("a field is cut off")
        else:
            raise InvalidMessage(f"wire type {wire_type}")
    if at != len(data):
        raise InvalidMessage(f"more than {MAX_FIELDS} fields")


def write_varint(value: int) -> bytes:
    """A non-negative number of at most 64 bits."""
    if not 0 <= value <= _UINT64:
        raise ValueError(f"not a number of 64 bits: {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """A varint field; nothing for 0, proto3's default."""
    return write_varint(number << 3 | _VARINT) + write_varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A length-delimited field, also when it is empty."""
    return write_varint(number << 3 | _BYTES) + write_varint(len(value)) + value
