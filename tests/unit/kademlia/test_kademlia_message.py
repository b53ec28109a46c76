from __future__ import annotations

import pytest

from peili.kademlia import own_message as own
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import digest_of, kad_key, key_digest
from peili.kademlia.message import (
    MAX_ADDRESS_LENGTH,
    MAX_ADDRESSES,
    MAX_ANSWER_SIZE,
    MAX_PROVIDER_PEERS,
    InvalidMessage,
    Message,
    MessageType,
    decode,
    encode,
    kad_protocol,
    trim,
)
from peili.kademlia.wire import MAX_FIELDS, bytes_field, number_field

PEER = Contact(b"id", (b"\x04\x0a\x4d\x00\x01\x06\x13\x88",))


def test_the_bytes_of_a_request_are_those_of_the_specification() -> None:
    assert encode(Message(MessageType.FIND_NODE, b"key")) == bytes.fromhex("0804 1203") + b"key"
    assert encode(Message(MessageType.PING)) == bytes.fromhex("0805")


def test_the_bytes_of_a_peer_are_those_of_the_specification() -> None:
    peer = b"\x0a\x02id\x12\x08" + PEER.addresses[0]
    assert encode(Message(MessageType.GET_PROVIDERS, b"", (PEER,))) == b"\x08\x03\x42" + bytes([len(peer)]) + peer
    assert (
        encode(Message(MessageType.ADD_PROVIDER, b"", (), (PEER,))) == b"\x08\x02\x4a" + bytes([len(peer)]) + peer
    )


def test_what_go_sends_beside_is_stepped_over() -> None:
    peer = bytes_field(1, b"id") + number_field(3, 1) + bytes_field(99, b"?") + b"\x9d\x06" + bytes(4)
    body = number_field(1, 4) + number_field(10, 1) + bytes_field(8, peer) + b"\xa1\x06" + bytes(8)
    assert decode(body) == Message(MessageType.FIND_NODE, b"", (Contact(b"id"),))


def test_our_own_fields_of_a_peer() -> None:
    message = Message(MessageType.GET_PROVIDERS, b"", (), (Contact(b"id", (), 5000, "zürich"),))
    assert decode(encode(message)) == message


@pytest.mark.parametrize("zone", [b"\xff", b"line\nbreak", b"z" * 65])
def test_a_zone_that_cannot_be_shown_is_dropped(zone: bytes) -> None:
    peer = bytes_field(1, b"id") + bytes_field(1002, zone) + number_field(1001, 70000)
    assert decode(number_field(1, 4) + bytes_field(8, peer)).closer_peers == (Contact(b"id"),)


def test_more_peers_and_addresses_than_are_kept_are_left_out() -> None:
    peer = bytes_field(1, b"id") + bytes_field(2, b"a" * (MAX_ADDRESS_LENGTH + 1)) + bytes_field(2, b"a") * 20
    message = decode(number_field(1, 3) + bytes_field(9, peer) * 1000 + bytes_field(8, bytes_field(1, b"")))
    assert len(message.provider_peers) == MAX_PROVIDER_PEERS
    assert message.provider_peers[0].addresses == (b"a",) * MAX_ADDRESSES
    assert message.closer_peers == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x08",
        b"\x08\x00",
        b"\x08\x01",
        b"\x08\x07",
        b"\x12\x05key",
        b"\x08\x04\x03",
        b"\x08\x04\x00\x00",
        b"\x08" + b"\xff" * 10 + b"\x00",
        b"\x08\x04\xa1\x06\x00",
        number_field(1, 4) + bytes_field(2, b"k" * 81),
        number_field(1, 4) + bytes_field(8, b"\xff"),
        number_field(1, 4) * (MAX_FIELDS + 1),
        number_field(1, 4) + bytes_field(99, bytes(MAX_ANSWER_SIZE)),
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(body)


def test_the_largest_answer_fits() -> None:
    full = Contact(b"i" * 64, (b"a" * MAX_ADDRESS_LENGTH,) * MAX_ADDRESSES, 65535, "z" * 64)
    assert len(encode(Message(MessageType.GET_PROVIDERS, b"k" * 80, (full,) * 20, (full,) * 20))) < 64 * 1024
    with pytest.raises(ValueError, match="are allowed"):
        encode(Message(MessageType.GET_PROVIDERS, b"", (full,) * 100))


def test_trim_brings_a_contact_within_the_bounds() -> None:
    wide = Contact(b"id", (b"", b"x" * 129, *(bytes([n]) for n in range(1, 20))), 5000, "zone")
    assert trim(wide) == Contact(b"id", tuple(bytes([n]) for n in range(1, 9)), 5000, "zone")


def test_protocol_ids() -> None:
    assert kad_protocol("/spegel") == "/spegel/kad/1.0.0"
    assert own.own_protocol("/peili") == "/peili/peili/1.0.0"


def test_a_key_is_the_multihash_of_its_string() -> None:
    digest = key_digest("docker.io/library/alpine:3")
    assert len(digest) == 32
    assert kad_key(digest) == b"\x12\x20" + digest
    assert digest_of(kad_key(digest)) == digest
    assert digest_of(digest) is None
    assert digest_of(b"\x11\x20" + digest) is None


def test_our_own_messages_survive_the_way() -> None:
    many = tuple(key_digest(str(number)) for number in range(own.MAX_KEYS))
    for message in (
        own.Provide(many, 1200, 5000, "zone"),
        own.Provide((), 0),
        own.Withdraw(many[:2]),
        own.Goodbye(),
        own.Ack(7),
    ):
        body = own.encode_own(message)
        assert len(body) <= own.MAX_SIZE
        assert own.decode_own(body) == message


def test_a_longer_life_is_cut() -> None:
    assert own.decode_own(own.encode_own(own.Provide((), 1 << 40))) == own.Provide((), own.MAX_TTL)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        number_field(1, 5),
        number_field(1, 16),
        number_field(1, 1) + bytes_field(2, bytes(33)),
        number_field(1, 2) + bytes_field(2, bytes(32 * (own.MAX_KEYS + 1))),
        number_field(1, 3) + bytes_field(9, bytes(own.MAX_SIZE)),
    ],
)
def test_what_is_no_message_of_ours(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        own.decode_own(body)


def test_wrong_keys_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        own.encode_own(own.Withdraw((b"short",)))
    with pytest.raises(ValueError, match="1000 are allowed"):
        own.encode_own(own.Withdraw((bytes(32),) * 1001))
