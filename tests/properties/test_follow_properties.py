"""Any bytes parse or raise; what is written is read; the coordinator holds its rules against any messages."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.follow.codec import (
    MAX_SIZE,
    InvalidFollowMessage,
    decode_answer,
    decode_ask,
    encode_answer,
    encode_ask,
)
from peili.follow.coordinator import Coordinator
from peili.follow.message import (
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
from peili.follow.settings import FollowSettings
from peili.follow.wire import MAX_NUMBER, bytes_field, number_field
from tests.properties.effort import examples

KEYS = st.binary(min_size=32, max_size=32)
IDS = st.binary(min_size=1, max_size=64)
ZONES = st.text(max_size=16).filter(lambda zone: zone.isprintable())
PORTS = st.integers(0, 65535)
OFFSETS = st.integers(0, MAX_NUMBER)
HOSTS = st.ip_addresses().filter(lambda a: not a.is_multicast and not a.is_unspecified).map(str)
PEERS = st.builds(Peer, IDS, HOSTS, st.integers(1, 65535), ZONES)
SOURCES = st.builds(Source, PEERS, OFFSETS, st.integers(0, 65535), st.booleans())
EXCLUDED = st.lists(IDS, max_size=32).map(tuple)
JOINS = st.builds(
    Join,
    KEYS,
    OFFSETS,
    st.just(0),
    st.sampled_from(Purpose),
    EXCLUDED,
    st.integers(0, 16),
    PORTS,
    ZONES,
    EXCLUDED,
    st.booleans(),
)
RENEWS = st.builds(
    Renew,
    KEYS,
    OFFSETS,
    st.just(MAX_NUMBER),
    st.just(b"") | IDS,
    EXCLUDED,
    PORTS,
    ZONES,
    st.booleans(),
    st.booleans(),
)
ASKS = JOINS | RENEWS | st.builds(Leave, KEYS, st.sampled_from(Outcome))
MILLISECONDS = st.integers(0, 60_000)
ANSWERS = (
    st.builds(Lead, MILLISECONDS, st.booleans(), st.booleans())
    | st.builds(Wait, MILLISECONDS)
    | st.builds(Keep, st.integers(0, 65535), MILLISECONDS, st.booleans())
    | st.builds(Follow, st.lists(SOURCES, min_size=1, max_size=8).map(tuple), st.integers(0, 65535))
)


@given(ASKS)
@settings(max_examples=examples(150), deadline=None)
def test_an_ask_is_read_as_it_was_written(ask: Ask) -> None:
    body = encode_ask(ask)
    assert len(body) <= MAX_SIZE
    assert decode_ask(body) == ask


@given(ANSWERS)
@settings(max_examples=examples(150), deadline=None)
def test_an_answer_is_read_as_it_was_written(answer: Answer) -> None:
    body = encode_answer(answer)
    assert len(body) <= MAX_SIZE
    assert decode_answer(body) == answer


@given(st.binary(max_size=300))
@settings(max_examples=examples(400), deadline=None)
def test_any_bytes_parse_or_raise(body: bytes) -> None:
    for decode in (decode_ask, decode_answer):
        try:
            decode(body)
        except InvalidFollowMessage:
            continue


@given(ASKS, st.data())
@settings(max_examples=examples(200), deadline=None)
def test_a_damaged_ask_parses_or_raises(ask: Ask, data: st.DataObject) -> None:
    body = bytearray(encode_ask(ask))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_ask(bytes(body[: data.draw(st.integers(0, len(body)))]))
    except InvalidFollowMessage:
        return


@given(ANSWERS, st.data())
@settings(max_examples=examples(200), deadline=None)
def test_a_damaged_answer_parses_or_raises(answer: Answer, data: st.DataObject) -> None:
    body = bytearray(encode_answer(answer))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = decode_answer(bytes(body))
    except InvalidFollowMessage:
        return
    if isinstance(read, Follow):
        for source in read.sources:
            address = ip_address(source.peer.host)
            assert source.peer.port
            assert not address.is_multicast


@given(ASKS, st.binary(max_size=50), st.integers(16, 1000))
@settings(max_examples=examples(50), deadline=None)
def test_unknown_fields_are_stepped_over(ask: Ask, value: bytes, number: int) -> None:
    body = bytes_field(number, value) + number_field(number, 7) + encode_ask(ask)
    assert decode_ask(body) == ask


@pytest.mark.parametrize(
    "body", [b"", b"\x08\x63", b"\x80" * 11, bytes(MAX_SIZE + 1), b"\x12\xff\xff\xff\xff\xff\x7f", b"\x0b"]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    for decode in (decode_ask, decode_answer):
        with pytest.raises(InvalidFollowMessage):
            decode(body)


def test_a_long_body_is_refused_though_it_is_well_formed() -> None:
    ask = encode_ask(Leave(bytes(32), Outcome.COMMITTED)) + bytes_field(500, bytes(MAX_SIZE))
    with pytest.raises(InvalidFollowMessage, match="are allowed"):
        decode_ask(ask)


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "::"])
def test_a_source_at_no_address_of_a_host_is_refused(host: str) -> None:
    answer = Follow((Source(Peer(b"a", host, 5000), 0, 0, committed=False),))
    with pytest.raises(InvalidFollowMessage):
        decode_answer(encode_answer(answer))


_NAMES = [bytes([n]) * 4 for n in range(8)]
_TOTAL = 1000


@st.composite
def _actions(draw: st.DrawFn) -> tuple[Peer, Ask, float]:
    number = draw(st.integers(0, 7))
    sender = Peer(_NAMES[number], f"10.0.0.{number + 1}", 5000)
    key = bytes(32)
    offset = draw(st.integers(0, _TOTAL))
    excluded = tuple(draw(st.lists(st.sampled_from(_NAMES), max_size=3)))
    ask: Ask
    match draw(st.sampled_from(["join", "resume", "renew", "leave"])):
        case "join":
            ask = Join(key, 0, _TOTAL, Purpose.FIRST, excluded, draw(st.integers(0, 3)))
        case "resume":
            ask = Join(key, offset, _TOTAL, Purpose.RESUME, excluded)
        case "renew":
            ask = Renew(key, offset, _TOTAL, draw(st.just(b"") | st.sampled_from(_NAMES)), excluded)
        case _:
            ask = Leave(key, draw(st.sampled_from(Outcome)))
    return sender, ask, draw(st.floats(0, 2))


@given(st.lists(_actions(), max_size=60))
@settings(max_examples=examples(200), deadline=None)
def test_the_coordinator_holds_its_rules_whatever_is_said(actions: list[tuple[Peer, Ask, float]]) -> None:
    table, now = Coordinator(FollowSettings()), 0.0
    for sender, ask, pause in actions:
        now += pause
        answer: Answer
        match ask:
            case Join():
                answer = table.join(sender, ask, now)
                assert isinstance(answer, Lead | Follow | Wait)
            case Renew():
                answer = table.renew(sender, ask, now)
                assert isinstance(answer, Keep | Follow | Lead)
            case Leave():
                answer = table.leave(sender, ask, now)
        if isinstance(answer, Follow):
            assert not isinstance(ask, Leave)
            named = {source.peer.id for source in answer.sources}
            assert sender.id not in named
            assert not named & set(ask.excluded)
            for source in answer.sources:
                # Ahead by the coordinator's knowledge; only at the start also level.
                assert source.committed or source.offset > ask.offset or ask.offset == 0
        decode_answer(encode_answer(answer))
        table.expire(now)
        _check_consistent(table, now)


def _check_consistent(table: Coordinator, now: float) -> None:
    for swarm in table._swarms:
        assert {e.peer.id for e in swarm.leads()} <= set(swarm.entries)
        for entry in swarm.entries.values():
            if entry.source:
                assert entry in swarm.children(entry.source)
        for peer_id, listed in swarm._children.items():
            assert all(swarm.entries[child].source == peer_id for child in listed)
