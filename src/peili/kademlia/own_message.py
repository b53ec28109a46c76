"""Peili's own messages, `<prefix>/peili/1.0.0`: many keys in one message, withdrawal, goodbye.

They have a protocol of their own because others reset the stream on an unknown type and read an ADD_PROVIDER with
unknown fields as a fresh one: send them only to peers whose identify lists this protocol. Each request is answered
by an Ack on the same stream (goodbye too, though a peer that leaves need not wait for it). Bodies only, as in
message.py.

    message Own { uint32 type = 1; bytes keys = 2; uint32 ttl = 3; uint32 registry_port = 4; string zone = 5;
                  uint32 accepted = 6; }
`keys` is the 32-byte digests one after another. Types 16 to 31 are kept for joins of pulls in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peili.kademlia.keyspace import DIGEST_LENGTH
from peili.kademlia.message import read_port, read_zone
from peili.kademlia.wire import InvalidMessage, bytes_field, number_field, read_fields

MAX_KEYS: Final = 1000  # of one message: 32 kB
MAX_SIZE: Final = 64 * 1024  # bytes of a body
MAX_TTL: Final = 48 * 3600  # seconds; a longer wish is cut to it
_PROVIDE, _WITHDRAW, _GOODBYE, _ACK = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Provide:
    """The sender has these keys (32-byte digests), for `ttl` seconds from now; its registry port and zone."""

    keys: tuple[bytes, ...]
    ttl: int
    registry_port: int = 0
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The sender has these keys no longer."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender leaves: all its records go, and it leaves the routing table."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer: how many keys were taken or taken back."""

    accepted: int = 0


OwnMessage = Provide | Withdraw | Goodbye | Ack


def own_protocol(prefix: str) -> str:
    """The id of our own protocol for a prefix such as `/peili`."""
    return f"{prefix}/peili/1.0.0"


def encode_own(message: OwnMessage) -> bytes:
    """The body of a message; raise ValueError where it has more than MAX_KEYS keys or one of another length."""
    match message:
        case Provide(keys, ttl, port, zone):
            tail = bytes_field(5, zone.encode()) if zone else b""
            return number_field(1, _PROVIDE) + _keys(keys) + number_field(3, ttl) + number_field(4, port) + tail
        case Withdraw(keys):
            return number_field(1, _WITHDRAW) + _keys(keys)
        case Goodbye():
            return number_field(1, _GOODBYE)
        case Ack(accepted):
            return number_field(1, _ACK) + number_field(6, accepted)


def decode_own(body: bytes) -> OwnMessage:
    """Parse a body; raise InvalidMessage."""
    if len(body) > MAX_SIZE:
        raise InvalidMessage(f"{len(body)} bytes; {MAX_SIZE} are allowed")
    numbers, texts = dict[int, int](), dict[int, bytes]()
    for number, value in read_fields(body):
        if isinstance(value, int):
            numbers[number] = value
        else:
            texts[number] = value
    match numbers.get(1, 0):
        case 1:
            port, zone = read_port(numbers.get(4, 0)), read_zone(texts.get(5, b""))
            return Provide(_split(texts.get(2, b"")), min(numbers.get(3, 0), MAX_TTL), port, zone)
        case 2:
            return Withdraw(_split(texts.get(2, b"")))
        case 3:
            return Goodbye()
        case 4:
            return Ack(min(numbers.get(6, 0), MAX_KEYS))
        case unknown:
            raise InvalidMessage(f"own message type {unknown}")


def _keys(keys: tuple[bytes, ...]) -> bytes:
    if len(keys) > MAX_KEYS:
        raise ValueError(f"{len(keys)} keys in one message; {MAX_KEYS} are allowed")
    if any(len(key) != DIGEST_LENGTH for key in keys):
        raise ValueError(f"a key in a message is a digest of {DIGEST_LENGTH} bytes")
    return bytes_field(2, b"".join(keys)) if keys else b""


def _split(joined: bytes) -> tuple[bytes, ...]:
    if len(joined) % DIGEST_LENGTH or len(joined) > MAX_KEYS * DIGEST_LENGTH:
        raise InvalidMessage(f"{len(joined)} bytes of keys; at most {MAX_KEYS} of {DIGEST_LENGTH} are allowed")
    return tuple(joined[at : at + DIGEST_LENGTH] for at in range(0, len(joined), DIGEST_LENGTH))
