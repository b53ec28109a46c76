"""Messages of the Kademlia protocol, `<prefix>/kad/1.0.0` (libp2p/specs, kad-dht, section RPC messages).

Bodies only: the varint length in front of each message belongs to the stream. What others send beyond our bounds
but within the format is left out (peers, addresses), not an error, so that an honest peer is never cut off for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from peili.kademlia.contact import Contact
from peili.kademlia.wire import InvalidMessage, bytes_field, number_field, read_fields

__all__ = [
    "MAX_ANSWER_SIZE",
    "MAX_REQUEST_SIZE",
    "InvalidMessage",
    "Message",
    "MessageType",
    "decode",
    "encode",
    "kad_protocol",
    "trim",
]

MAX_REQUEST_SIZE: Final = 64 * 1024  # bytes; what others may send unasked. Real requests have below 2 KiB
# Go answers with every provider it knows (limit 4 MiB): 1,000 providers with a few addresses are 100 to 300 KiB.
# Ours always fit 64 KiB. 1 MiB holds all of that, and a few requests in flight cannot fill the memory.
MAX_ANSWER_SIZE: Final = 1024 * 1024
MAX_KEY_LENGTH: Final = 80  # bytes, as Go's
MAX_PEER_ID_LENGTH: Final = 64  # bytes; ed25519 ids have 38
MAX_ADDRESSES: Final = 8  # kept of one peer
MAX_ADDRESS_LENGTH: Final = 128  # bytes
MAX_CLOSER_PEERS: Final = 20  # k
MAX_PROVIDER_PEERS: Final = 100  # kept of an answer; Go sends all
MAX_ZONE_LENGTH: Final = 64  # bytes


class MessageType(IntEnum):
    """The types that we speak; values and peer records of the other types are not for us."""

    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Message:
    """A request or its answer."""

    type: MessageType
    key: bytes = b""
    closer_peers: tuple[Contact, ...] = ()
    provider_peers: tuple[Contact, ...] = ()


def kad_protocol(prefix: str) -> str:
    """The protocol id for a prefix such as `/spegel`."""
    return f"{prefix}/kad/1.0.0"


def trim(contact: Contact) -> Contact:
    """This contact within the bounds of the wire: few and short addresses."""
    fitting = tuple(a for a in contact.addresses if 0 < len(a) <= MAX_ADDRESS_LENGTH)[:MAX_ADDRESSES]
    return Contact(contact.id, fitting, contact.registry_port, contact.zone)


def encode(message: Message) -> bytes:
    """The body of a message, at most MAX_REQUEST_SIZE bytes; raise ValueError where it has more."""
    parts = [number_field(1, message.type)]
    if message.key:
        parts.append(bytes_field(2, message.key))
    parts += [bytes_field(8, _encode_peer(peer)) for peer in message.closer_peers]
    parts += [bytes_field(9, _encode_peer(peer)) for peer in message.provider_peers]
    body = b"".join(parts)
    if len(body) > MAX_REQUEST_SIZE:
        raise ValueError(f"a message of {len(body)} bytes; {MAX_REQUEST_SIZE} are allowed")
    return body


def decode(body: bytes) -> Message:
    """Parse a message's body; raise InvalidMessage."""
    if len(body) > MAX_ANSWER_SIZE:
        raise InvalidMessage(f"{len(body)} bytes; {MAX_ANSWER_SIZE} are allowed")
    kind, key = 0, b""
    closer: list[Contact] = []
    providers: list[Contact] = []
    for number, value in read_fields(body):
        match number, value:
            case 1, int():
                kind = value
            case 2, bytes():
                key = value
            case 8, bytes() if len(closer) < MAX_CLOSER_PEERS:
                closer += _decode_peer(value)
            case 9, bytes() if len(providers) < MAX_PROVIDER_PEERS:
                providers += _decode_peer(value)
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidMessage(f"a key of {len(key)} bytes; {MAX_KEY_LENGTH} are allowed")
    return Message(_known_type(kind), key, tuple(closer), tuple(providers))


def _known_type(kind: int) -> MessageType:
    try:
        return MessageType(kind)
    except ValueError as error:
        raise InvalidMessage(f"message type {kind}") from error


def _encode_peer(peer: Contact) -> bytes:
    """Field 3 (connection) is left at its default: nobody acts on it. 1001 and 1002 are ours; others skip them."""
    parts = [bytes_field(1, peer.id)]
    parts += [bytes_field(2, address) for address in peer.addresses]
    parts.append(number_field(1001, peer.registry_port))
    if peer.zone:
        parts.append(bytes_field(1002, peer.zone.encode()))
    return b"".join(parts)


def _decode_peer(body: bytes) -> Iterable[Contact]:
    """One contact, or none where its id is not usable."""
    peer_id, addresses, port, zone = b"", list[bytes](), 0, ""
    for number, value in read_fields(body):
        match number, value:
            case 1, bytes():
                peer_id = value
            case 2, bytes() if len(addresses) < MAX_ADDRESSES and 0 < len(value) <= MAX_ADDRESS_LENGTH:
                addresses.append(value)
            case 1001, int():
                port = read_port(value)
            case 1002, bytes():
                zone = read_zone(value)
    if not 0 < len(peer_id) <= MAX_PEER_ID_LENGTH:
        return ()
    return (Contact(peer_id, tuple(addresses), port, zone),)


def read_port(value: int) -> int:
    """A TCP port, or 0 where the number is none."""
    return value if value <= 0xFFFF else 0


def read_zone(value: bytes) -> str:
    """A zone's name, or nothing where it is too long or not printable (it ends in logs and on pages)."""
    if len(value) > MAX_ZONE_LENGTH:
        return ""
    try:
        zone = value.decode()
    except UnicodeDecodeError:
        return ""
    return zone if zone.isprintable() else ""
