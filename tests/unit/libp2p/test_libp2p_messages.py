"""multistream-select, identify and the keep-alive decision."""

from __future__ import annotations

import pytest

from peili.libp2p.errors import ProtocolNotSupported
from peili.libp2p.identify import Identify, InvalidIdentify, encode_identify, parse_identify
from peili.libp2p.identity import Identity
from peili.libp2p.keepalive import (
    CHECK_INTERVAL,
    PING_INTERVAL,
    PING_TIMEOUT,
    SUSPECT_TIMEOUT,
    WRITE_TIMEOUT,
    KeepAlive,
    Step,
)  # fmt: skip
from peili.libp2p.multiaddr import Multiaddr
from peili.libp2p.multistream import (
    HEADER,
    MAX_PROPOSALS,
    MultistreamError,
    Proposer,
    Responder,
    encode_line,
    take_line,
)
from peili.libp2p.protobuf import field
from peili.libp2p.table import preferred, to_trim

ME = Identity.generate().peer_id
OTHER = Identity.generate().peer_id


def test_a_proposal_with_its_payload_in_one_flight() -> None:
    proposer, responder = Proposer("/a"), Responder({"/a", "/b"})
    wire = bytearray(proposer.opening + b"payload")
    answer, agreed = responder.receive(wire)
    assert agreed == "/a"
    assert wire == b"payload"
    back = bytearray(answer + b"reply")
    assert proposer.receive(back)
    assert back == b"reply"


def test_answers_in_any_pieces() -> None:
    proposer, buffer = Proposer("/a"), bytearray()
    whole = encode_line(HEADER) + encode_line("/a")
    results = []
    for byte in whole:
        buffer.append(byte)
        results.append(proposer.receive(buffer))
    assert results == [False] * (len(whole) - 1) + [True]


def test_a_refusal_and_another_proposal() -> None:
    responder = Responder({"/b"})
    answer, agreed = responder.receive(bytearray(encode_line(HEADER) + encode_line("/a") + encode_line("ls")))
    assert (answer, agreed) == (encode_line(HEADER) + encode_line("na") * 2, None)
    assert responder.receive(bytearray(encode_line("/b"))) == (encode_line("/b"), "/b")
    with pytest.raises(ProtocolNotSupported):
        Proposer("/a").receive(bytearray(answer))


@pytest.mark.parametrize(
    "wire",
    [
        b"\x00",
        b"\x01x",
        b"\x81\x08" + b"x" * 10,
        b"\xff" * 9,
        b"\x03\xff\xfe\n",
        encode_line("/multistream/2.0.0"),
        b"\x05\xff\xfe\xfd\xfc\n",
    ],
    ids=["empty", "no newline", "too long", "no number", "not UTF-8", "another header", "the six bytes"],
)
def test_lines_that_end_a_negotiation(wire: bytes) -> None:
    with pytest.raises(MultistreamError):
        Responder({"/a"}).receive(bytearray(wire))
    with pytest.raises(MultistreamError):
        Proposer("/a").receive(bytearray(wire))


def test_a_negotiation_has_an_end() -> None:
    responder = Responder({"/a"})
    responder.receive(bytearray(encode_line(HEADER)))
    for _ in range(MAX_PROPOSALS):
        responder.receive(bytearray(encode_line("/x")))
    with pytest.raises(MultistreamError, match="proposals"):
        responder.receive(bytearray(encode_line("/x")))


def test_an_incomplete_line_is_left_in_the_buffer() -> None:
    buffer = bytearray(encode_line("/abc")[:-1])
    assert take_line(buffer) is None
    assert buffer == encode_line("/abc")[:-1]


def test_identify_there_and_back() -> None:
    own = Identify(
        ME, frozenset({"/a", "/b"}), "peili/1", "ipfs/0.1.0", (Multiaddr.of("10.0.0.1", 5001),), 5000, "zone-ü"
    )
    message = encode_identify(own, Multiaddr.of("fd00::2", 4242))
    assert parse_identify(message, Identify(ME)) == own
    assert message.startswith(bytes.fromhex("0a2408011220"))


def test_a_push_changes_what_it_names() -> None:
    known = Identify(ME, frozenset({"/a"}), "peili/1", "ipfs/0.1.0", (Multiaddr.of("10.0.0.1", 1),), 5000, "z")
    after = parse_identify(field(3, b"/b") + field(99, b"unknown"), known)
    assert (after.protocols, after.registry_port, after.agent_version) == (frozenset({"/b"}), 5000, "peili/1")
    assert parse_identify(b"", known) == known


def test_addresses_that_we_cannot_use_are_left_out() -> None:
    quic = bytes.fromhex("040a000001910213cc03")
    message = field(2, quic) + field(2, Multiaddr.of("10.0.0.1", 1).to_bytes())
    assert parse_identify(message, Identify(ME)).listen_addresses == (Multiaddr.of("10.0.0.1", 1),)


@pytest.mark.parametrize(
    "message",
    [
        field(1, OTHER.to_bytes()[2:]),
        field(1, 5),
        field(3, 5),
        field(3, b"\xff"),
        field(6, b"a\nb"),
        field(6, b"x" * 257),
        field(1002, b"x" * 65),
        field(1001, 65536),
        field(1001, b"5000"),
        field(3, b"/x") * 129,
        field(2, 1),
        b"\x0a\x05abc",
        b"\x00",
        b"\x0b",
        b"x" * 20_000,
        field(99, 1) * 2000,
    ],
)
def test_identify_messages_that_are_refused(message: bytes) -> None:
    with pytest.raises(InvalidIdentify):
        parse_identify(message, Identify(ME))


def test_a_silent_peer_is_pinged_and_given_up_within_50_seconds() -> None:
    life, now, steps = KeepAlive(0.0), 0.0, []
    while Step.GIVE_UP not in steps:
        now += CHECK_INTERVAL
        steps.append(life.step(now))
    assert steps.count(Step.PING) == 1
    assert PING_INTERVAL + PING_TIMEOUT <= now <= 45


def test_any_byte_is_a_sign_of_life() -> None:
    life = KeepAlive(0.0)
    assert life.step(PING_INTERVAL) is Step.PING
    life.heard(PING_INTERVAL + 1)
    assert life.step(PING_INTERVAL + PING_TIMEOUT) is Step.WAIT


def test_a_peer_that_takes_no_bytes_is_given_up_though_it_talks() -> None:
    life = KeepAlive(0.0)
    life.write_started(1.0)
    life.heard(30.0)
    assert life.step(WRITE_TIMEOUT) is Step.WAIT
    assert life.step(1.0 + WRITE_TIMEOUT) is Step.GIVE_UP
    life.write_ended()
    assert life.step(1.0 + WRITE_TIMEOUT) is Step.WAIT


def test_a_suspect_has_less_time() -> None:
    life = KeepAlive(0.0)
    assert life.suspect(1.0) is Step.PING
    assert life.suspect(2.0) is Step.WAIT
    assert life.step(1.0 + SUSPECT_TIMEOUT) is Step.GIVE_UP


class Fake:
    def __init__(self, *, outbound: bool, opened: float = 0.0, last_used: float = 0.0) -> None:
        self.peer_id, self.outbound, self.opened, self.last_used = max(ME, OTHER), outbound, opened, last_used


def test_both_sides_prefer_the_connection_that_the_smaller_id_dialled() -> None:
    dialled, taken = Fake(outbound=True), Fake(outbound=False, opened=1.0)
    assert preferred([dialled, taken], min(ME, OTHER)) is dialled
    newer = Fake(outbound=True, opened=2.0)
    assert preferred([dialled, taken, newer], min(ME, OTHER)) is newer
    assert preferred([], ME) is None


def test_the_longest_unused_connection_makes_room() -> None:
    used, older, old = (
        Fake(outbound=True, last_used=99),
        Fake(outbound=True, last_used=10),
        Fake(outbound=True, last_used=20),
    )
    assert to_trim([used, old, older], now=100.0) is older
    assert to_trim([used], now=100.0) is None
