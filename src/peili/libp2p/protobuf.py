"""A bounded reader and writer of protobuf's wire format (protobuf.dev, encoding), for few and small messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peili.libp2p import varint
from peili.libp2p.errors import Libp2pError

MAX_FIELDS: Final = 1024  # in one message
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class InvalidProtobuf(Libp2pError, ValueError):
    """The bytes are no protobuf message, or one with too many fields."""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field in its order: an int for varints, bytes for everything else.

    Raise InvalidProtobuf, possibly after some fields.
    """
    offset = count = 0
    while offset < len(message):
        count += 1
        if count > MAX_FIELDS:
            raise InvalidProtobuf(f"a message of more than {MAX_FIELDS} fields")
        tag, offset = _number(message, offset)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise InvalidProtobuf("a field with the number 0")
        value: int | bytes
        if kind == _VARINT:
            value, offset = _number(message, offset)
        elif kind in (_BYTES, _FIXED64, _FIXED32):
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
            if length is None:
                length, offset = _number(message, offset)
            if length > len(message) - offset:
                raise InvalidProtobuf("a field that ends after its message")
            value, offset = message[offset : offset + length], offset + length
        else:
            raise InvalidProtobuf(f"a field of the wire type {kind}")
        yield number, value


def field(number: int, value: int | bytes) -> bytes:
    """One field on the wire: a varint for an int, length-delimited for bytes."""
    if isinstance(value, int):
        return varint.encode(number << 3 | _VARINT) + varint.encode(value)
    return varint.encode(number << 3 | _BYTES) + varint.encode(len(value)) + value


def _number(message: bytes, offset: int) -> tuple[int, int]:
    # A negative int32 takes ten bytes; none of our messages has one.
    try:
        read = varint.decode(message, offset)
    except varint.InvalidVarint as error:
        raise InvalidProtobuf(str(error)) from error
    if read is None:
        raise InvalidProtobuf("a message that ends within a number")
    return read
