"""The wire of message.py, bounded: any bytes parse or raise InvalidFollowMessage.

Bodies only; the stream frames them.

    message Ask    { uint32 type = 1; bytes key = 2; uint64 offset = 3; uint64 total = 4; uint32 purpose = 5;
                     repeated bytes excluded = 6; uint32 burden = 7; bytes source = 8; uint32 outcome = 9;
                     uint32 port = 10; string zone = 11; repeated bytes busy = 12; uint32 alone = 13;
                     uint32 full = 14; uint32 queued = 15; }
    message Answer { uint32 type = 1; uint32 milliseconds = 2; repeated Source source = 3; uint32 depth = 4;
                     uint32 sole = 5; uint32 queued = 6; uint32 unprovided = 7; }
    message Source { bytes id = 1; bytes address = 2; uint32 port = 3; string zone = 4; uint64 offset = 5;
                     uint32 depth = 6; uint32 committed = 7; }

Unknown fields are stepped over, unknown types refused. Lists beyond their bounds are cut, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from peili.follow.message import (
    KEY_LENGTH,
    Answer,
    Ask,
    Follow,
    Join,
    Keep,
    Lead,
    Leave,
    Outcome,
    Peer,
    Purpose,
    Renew,
    Source,
    Wait,
)
from peili.follow.wire import InvalidFollowMessage, bytes_field, number_field, read_fields

__all__ = ["MAX_SIZE", "InvalidFollowMessage", "decode_answer", "decode_ask", "encode_answer", "encode_ask"]

MAX_SIZE: Final = 8 * 1024  # bytes of a body
MAX_PEER_ID_LENGTH: Final = 64  # bytes; ed25519 ids have 38
MAX_ZONE_LENGTH: Final = 64  # bytes
MAX_SOURCES: Final = 8  # in one answer
MAX_EXCLUDED: Final = 32  # in one message; a node forgets the oldest
MAX_BURDEN: Final = 16
MAX_DEPTH: Final = 65535
MAX_MILLISECONDS: Final = 60_000
_JOIN, _RENEW, _LEAVE = 1, 2, 3
_LEAD, _FOLLOW, _WAIT, _KEEP = 16, 17, 18, 19


def encode_ask(ask: Ask) -> bytes:
    """The body of a node's message; raise ValueError where a value is out of bounds."""
    match ask:
        case Join():
            parts = [number_field(1, _JOIN), number_field(5, ask.purpose), number_field(7, ask.burden)]
            busy = [bytes_field(12, _checked_id(each)) for each in ask.busy]
            if len(busy) > MAX_EXCLUDED:
                raise ValueError(f"{len(busy)} busy peers; {MAX_EXCLUDED} are allowed")
            return b"".join([*parts, *_state(ask), *busy, number_field(13, int(ask.alone))])
        case Renew():
            source = bytes_field(8, _checked_id(ask.source)) if ask.source else b""
            flags = [number_field(14, int(ask.full)), number_field(15, int(ask.queued))]
            return b"".join([number_field(1, _RENEW), source, *_state(ask), *flags])
        case Leave():
            return number_field(1, _LEAVE) + bytes_field(2, _checked_key(ask.key)) + number_field(9, ask.outcome)


def decode_ask(body: bytes) -> Ask:
    """Parse what a node sent; raise InvalidFollowMessage."""
    fields = _Fields.of(body)
    key = fields.text(2)
    if len(key) != KEY_LENGTH:
        raise InvalidFollowMessage(f"a key of {len(key)} bytes; it has {KEY_LENGTH}")
    offset, total, port = fields.number(3), fields.number(4), fields.port(10)
    if total and offset > total:
        raise InvalidFollowMessage(f"{offset} bytes of {total}")
    excluded = tuple(_read_id(each) for each in fields.lists.get(6, [])[:MAX_EXCLUDED])
    zone = _read_zone(fields.text(11))
    match fields.number(1):
        case 1:
            burden = min(fields.number(7), MAX_BURDEN)
            busy = tuple(_read_id(each) for each in fields.lists.get(12, [])[:MAX_EXCLUDED])
            purpose, alone = _purpose(fields.number(5)), bool(fields.number(13))
            return Join(key, offset, total, purpose, excluded, burden, port, zone, busy, alone)
        case 2:
            source = fields.text(8)
            source_id, full = _read_id(source) if source else b"", bool(fields.number(14))
            return Renew(key, offset, total, source_id, excluded, port, zone, full, bool(fields.number(15)))
        case 3:
            return Leave(key, _outcome(fields.number(9)))
        case unknown:
            raise InvalidFollowMessage(f"message type {unknown}")


def encode_answer(answer: Answer) -> bytes:
    """The body of a coordinator's answer; raise ValueError where a value is out of bounds."""
    match answer:
        case Lead(milliseconds, sole, unprovided):
            flags = [number_field(5, int(sole)), number_field(7, int(unprovided))]
            return b"".join([number_field(1, _LEAD), number_field(2, milliseconds), *flags])
        case Wait(milliseconds):
            return number_field(1, _WAIT) + number_field(2, milliseconds)
        case Keep(depth, milliseconds, queued):
            parts = [number_field(2, milliseconds), number_field(4, depth), number_field(6, int(queued))]
            return b"".join([number_field(1, _KEEP), *parts])
        case Follow(sources, depth):
            if not 0 < len(sources) <= MAX_SOURCES:
                raise ValueError(f"{len(sources)} sources; 1 to {MAX_SOURCES} are allowed")
            listed = b"".join(bytes_field(3, _encode_source(source)) for source in sources)
            return number_field(1, _FOLLOW) + number_field(4, depth) + listed


def decode_answer(body: bytes) -> Answer:
    """Parse what a coordinator answered; raise InvalidFollowMessage."""
    fields = _Fields.of(body)
    milliseconds = min(fields.number(2), MAX_MILLISECONDS)
    depth = min(fields.number(4), MAX_DEPTH)
    match fields.number(1):
        case 16:
            return Lead(milliseconds, bool(fields.number(5)), bool(fields.number(7)))
        case 17:
            sources = tuple(_decode_source(each) for each in fields.lists.get(3, [])[:MAX_SOURCES])
            if not sources:
                raise InvalidFollowMessage("nobody to follow is named")
            return Follow(sources, depth)
        case 18:
            return Wait(milliseconds)
        case 19:
            return Keep(depth, milliseconds, bool(fields.number(6)))
        case unknown:
            raise InvalidFollowMessage(f"answer type {unknown}")


@dataclass(slots=True)
class _Fields:
    numbers: dict[int, int] = field(default_factory=dict)
    lists: dict[int, list[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, body: bytes) -> _Fields:
        if len(body) > MAX_SIZE:
            raise InvalidFollowMessage(f"{len(body)} bytes; {MAX_SIZE} are allowed")
        fields = cls()
        for number, value in read_fields(body):
            if isinstance(value, int):
                fields.numbers[number] = value
            else:
                fields.lists.setdefault(number, []).append(value)
        return fields

    def number(self, number: int) -> int:
        return self.numbers.get(number, 0)

    def text(self, number: int) -> bytes:
        """The last one counts, as in protobuf."""
        return self.lists.get(number, [b""])[-1]

    def port(self, number: int) -> int:
        port = self.number(number)
        if port > 0xFFFF:
            raise InvalidFollowMessage(f"port {port}")
        return port


def _state(ask: Join | Renew) -> list[bytes]:
    if len(ask.excluded) > MAX_EXCLUDED:
        raise ValueError(f"{len(ask.excluded)} excluded peers; {MAX_EXCLUDED} are allowed")
    if ask.total and ask.offset > ask.total:
        raise ValueError(f"{ask.offset} bytes of {ask.total}")
    return [
        bytes_field(2, _checked_key(ask.key)),
        number_field(3, ask.offset),
        number_field(4, ask.total),
        *(bytes_field(6, _checked_id(each)) for each in ask.excluded),
        number_field(10, _checked_port(ask.port)),
        bytes_field(11, _checked_zone(ask.zone)) if ask.zone else b"",
    ]


def _encode_source(source: Source) -> bytes:
    peer = source.peer
    parts = [
        bytes_field(1, _checked_id(peer.id)),
        bytes_field(2, ip_address(peer.host).packed),
        number_field(3, _checked_port(peer.port)),
        bytes_field(4, _checked_zone(peer.zone)) if peer.zone else b"",
        number_field(5, source.offset),
        number_field(6, source.depth),
        number_field(7, int(source.committed)),
    ]
    return b"".join(parts)


def _decode_source(body: bytes) -> Source:
    fields = _Fields.of(body)
    try:
        address = ip_address(fields.text(2))
    except ValueError as error:
        raise InvalidFollowMessage("a source's address is not an IP address") from error
    if address.is_unspecified or address.is_multicast:
        raise InvalidFollowMessage(f"a source at {address}")
    port = fields.port(3)
    if not port:
        raise InvalidFollowMessage("a source without a port")
    peer = Peer(_read_id(fields.text(1)), str(address), port, _read_zone(fields.text(4)))
    return Source(peer, fields.number(5), min(fields.number(6), MAX_DEPTH), bool(fields.number(7)))


def _checked_key(key: bytes) -> bytes:
    if len(key) != KEY_LENGTH:
        raise ValueError(f"a key of {len(key)} bytes; it has {KEY_LENGTH}")
    return key


def _checked_id(peer_id: bytes) -> bytes:
    if not 0 < len(peer_id) <= MAX_PEER_ID_LENGTH:
        raise ValueError(f"a peer id of {len(peer_id)} bytes; 1 to {MAX_PEER_ID_LENGTH} are allowed")
    return peer_id


def _checked_port(port: int) -> int:
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port {port}")
    return port


def _checked_zone(zone: str) -> bytes:
    encoded = zone.encode()
    if len(encoded) > MAX_ZONE_LENGTH:
        raise ValueError(f"a zone's name of {len(encoded)} bytes; {MAX_ZONE_LENGTH} are allowed")
    return encoded


def _read_id(value: bytes) -> bytes:
    if not 0 < len(value) <= MAX_PEER_ID_LENGTH:
        raise InvalidFollowMessage(f"a peer id of {len(value)} bytes")
    return value


def _read_zone(value: bytes) -> str:
    """A zone's name, or nothing where it is too long or not printable (it ends in logs and on pages)."""
    if len(value) > MAX_ZONE_LENGTH:
        return ""
    try:
        zone = value.decode()
    except UnicodeDecodeError:
        return ""
    return zone if zone.isprintable() else ""


def _purpose(value: int) -> Purpose:
    """What we do not know is a first request: it is promised nothing that a resumption is not."""
    return Purpose.RESUME if value == Purpose.RESUME else Purpose.FIRST


def _outcome(value: int) -> Outcome:
    return Outcome(value) if value in {1, 2, 3} else Outcome.GAVE_UP
