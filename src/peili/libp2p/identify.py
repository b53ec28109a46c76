"""identify and identify/push (libp2p/specs, identify): what peers say of themselves, without I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from peili.libp2p.errors import Libp2pError
from peili.libp2p.multiaddr import InvalidMultiaddr, Multiaddr
from peili.libp2p.peer_id import PeerId
from peili.libp2p.protobuf import InvalidProtobuf, field, fields

IDENTIFY: Final = "/ipfs/id/1.0.0"
IDENTIFY_PUSH: Final = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION: Final = "ipfs/0.1.0"

MAX_MESSAGE: Final = 16 * 1024  # bytes
MAX_PROTOCOLS: Final = 128
MAX_ADDRESSES: Final = 64
MAX_TEXT: Final = 256  # bytes of a protocol's name or a version
MAX_ZONE: Final = 64  # bytes

_PUBLIC_KEY, _LISTEN_ADDRESS, _PROTOCOL, _OBSERVED, _PROTOCOL_VERSION, _AGENT_VERSION = 1, 2, 3, 4, 5, 6
# Peili's own fields; others skip unknown numbers.
_REGISTRY_PORT, _ZONE = 1001, 1002


class InvalidIdentify(Libp2pError, ValueError):
    """The peer's identify message cannot be read, or is about somebody else."""


@dataclass(frozen=True, slots=True)
class Identify:
    """What a peer says of itself. `registry_port` is 0 and `zone` empty where it did not say (not Peili)."""

    peer_id: PeerId
    protocols: frozenset[str] = frozenset()
    agent_version: str = ""
    protocol_version: str = ""
    listen_addresses: tuple[Multiaddr, ...] = ()
    registry_port: int = 0
    zone: str = ""


def encode_identify(own: Identify, observed: Multiaddr | None) -> bytes:
    """The message about ourselves, for a peer that we see at `observed`."""
    message = field(_PUBLIC_KEY, own.peer_id.to_bytes()[2:])  # the identity multihash holds the key itself
    for address in own.listen_addresses[:MAX_ADDRESSES]:
        message += field(_LISTEN_ADDRESS, address.to_bytes())
    for protocol in sorted(own.protocols):
        message += field(_PROTOCOL, protocol.encode())
    if observed is not None:
        message += field(_OBSERVED, observed.to_bytes())
    message += field(_PROTOCOL_VERSION, own.protocol_version.encode())
    message += field(_AGENT_VERSION, own.agent_version.encode())
    if own.registry_port:
        message += field(_REGISTRY_PORT, own.registry_port)
    if own.zone:
        message += field(_ZONE, own.zone.encode())
    return message


def parse_identify(message: bytes, known: Identify) -> Identify:
    """What is known of a peer after this message: a field that it lacks stays as it was (so a push may be partial).

    Addresses that we cannot use are left out. Raise InvalidIdentify.
    """
    if len(message) > MAX_MESSAGE:
        raise InvalidIdentify(f"an identify message of {len(message)} bytes")
    found: dict[int, list[int | bytes]] = {}
    try:
        for number, value in fields(message):
            found.setdefault(number, []).append(value)
    except InvalidProtobuf as error:
        raise InvalidIdentify(f"an identify message that cannot be read: {error}") from error
    for key in found.get(_PUBLIC_KEY, ()):
        if key != known.peer_id.to_bytes()[2:]:
            raise InvalidIdentify("an identify message with the key of somebody else")
    return replace(
        known,
        protocols=_protocols(found.get(_PROTOCOL), known.protocols),
        listen_addresses=_addresses(found.get(_LISTEN_ADDRESS), known.listen_addresses),
        protocol_version=_last_text(found.get(_PROTOCOL_VERSION), MAX_TEXT, known.protocol_version),
        agent_version=_last_text(found.get(_AGENT_VERSION), MAX_TEXT, known.agent_version),
        registry_port=_port(found.get(_REGISTRY_PORT), known.registry_port),
        zone=_last_text(found.get(_ZONE), MAX_ZONE, known.zone),
    )


def _text(value: int | bytes, limit: int) -> str:
    if isinstance(value, int) or len(value) > limit:
        raise InvalidIdentify(f"an identify message with a text that is none, or of more than {limit} bytes")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidIdentify("an identify message with a text that is not UTF-8") from error
    if not text.isprintable():
        # It ends up in logs and labels.
        raise InvalidIdentify("an identify message with control characters in a text")
    return text


def _last_text(values: list[int | bytes] | None, limit: int, known: str) -> str:
    return _text(values[-1], limit) if values else known


def _protocols(values: list[int | bytes] | None, known: frozenset[str]) -> frozenset[str]:
    if values is None:
        return known
    if len(values) > MAX_PROTOCOLS:
        raise InvalidIdentify(f"an identify message with {len(values)} protocols")
    return frozenset(_text(value, MAX_TEXT) for value in values)


def _addresses(values: list[int | bytes] | None, known: tuple[Multiaddr, ...]) -> tuple[Multiaddr, ...]:
    if values is None:
        return known
    addresses = []
    for value in values[:MAX_ADDRESSES]:
        if isinstance(value, int):
            raise InvalidIdentify("an identify message with a number for an address")
        try:
            addresses.append(Multiaddr.parse(value))
        except InvalidMultiaddr:
            continue  # QUIC, WebSocket, relays: nothing that we could dial
    return tuple(addresses)


def _port(values: list[int | bytes] | None, known: int) -> int:
    if not values:
        return known
    port = values[-1]
    if not isinstance(port, int) or port > 65535:
        raise InvalidIdentify("an identify message with a registry port that is none")
    return port
