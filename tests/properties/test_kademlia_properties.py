"""Any bytes parse or raise InvalidMessage; the metric is one; lookups end whatever the peers say."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import common_prefix_length, distance, key_with_prefix, position
from peili.kademlia.lookup import MAX_ASKED, Ask, Done, Lookup, LookupSettings
from peili.kademlia.message import InvalidMessage, Message, MessageType, decode, encode
from peili.kademlia.own_message import Ack, Goodbye, OwnMessage, Provide, Withdraw, decode_own, encode_own
from peili.kademlia.records import ProviderRecords
from peili.kademlia.table import RoutingTable
from peili.kademlia.wire import bytes_field, number_field, read_varint, write_varint
from tests.properties.effort import examples

positions = st.integers(0, 2**256 - 1)
zones = st.text("abc-ü", max_size=20)
contacts = st.builds(
    Contact,
    st.binary(min_size=1, max_size=64),
    st.lists(st.binary(min_size=1, max_size=128), max_size=8).map(tuple),
    st.integers(0, 65535),
    zones,
)
peers = st.lists(contacts, max_size=20).map(tuple)
messages = st.builds(Message, st.sampled_from(MessageType), st.binary(max_size=80), peers, peers)
digests = st.lists(st.binary(min_size=32, max_size=32), max_size=20).map(tuple)
own_messages: st.SearchStrategy[OwnMessage] = st.one_of(
    st.builds(Provide, digests, st.integers(0, 172800), st.integers(0, 65535), zones),
    st.builds(Withdraw, digests),
    st.builds(Goodbye),
    st.builds(Ack, st.integers(0, 1000)),
)
# Nearly right: fields of the right numbers with any content, nested.
fields = st.recursive(
    st.binary(max_size=40),
    lambda inner: st.lists(
        st.one_of(
            st.builds(number_field, st.sampled_from([1, 3, 4, 6, 10, 1001]), st.integers(0, 2**64 - 1)),
            st.builds(bytes_field, st.sampled_from([1, 2, 5, 8, 9, 1002]), inner),
        ),
        max_size=8,
    ).map(b"".join),
    max_leaves=20,
)


@settings(deadline=None, max_examples=examples(300))
@given(st.one_of(st.binary(max_size=300), fields, fields.map(lambda body: number_field(1, 4) + body)))
def test_any_bytes_are_a_message_or_invalid(body: bytes) -> None:
    try:
        message = decode(body)
    except InvalidMessage:
        pass
    else:
        assert decode(encode(message)) == message
    try:
        own = decode_own(body)
    except InvalidMessage:
        pass
    else:
        assert decode_own(encode_own(own)) == own


@settings(deadline=None, max_examples=examples(100))
@given(messages, own_messages)
def test_messages_survive_the_way(message: Message, own: OwnMessage) -> None:
    assert decode(encode(message)) == message
    assert decode_own(encode_own(own)) == own


@settings(deadline=None, max_examples=examples(100))
@given(messages, st.data())
def test_a_cut_message_is_a_message_or_invalid(message: Message, data: st.DataObject) -> None:
    body = encode(message)
    cut = data.draw(st.integers(0, len(body)))
    try:
        decode(body[:cut])
    except InvalidMessage:
        return


@settings(deadline=None, max_examples=examples(100))
@given(st.integers(0, 2**64 - 1))
def test_numbers_survive_the_way(value: int) -> None:
    written = write_varint(value)
    assert read_varint(written, 0) == (value, len(written))


@settings(deadline=None, max_examples=examples(100))
@given(st.one_of(st.integers(max_value=-1), st.integers(min_value=2**64)))
def test_other_numbers_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        write_varint(value)


@settings(deadline=None, max_examples=examples(100))
@given(positions, positions, positions)
def test_the_distance_is_a_metric(one: int, two: int, three: int) -> None:
    assert (distance(one, two) == 0) == (one == two)
    assert distance(one, two) == distance(two, one)
    assert distance(one, three) <= distance(one, two) + distance(two, three)


@settings(deadline=None, max_examples=examples(100))
@given(positions, positions)
def test_exactly_one_point_lies_at_a_distance(one: int, far: int) -> None:
    assert distance(one, distance(one, far)) == far


@settings(deadline=None, max_examples=examples(100))
@given(positions, positions, positions)
def test_a_longer_common_prefix_is_nearer(one: int, two: int, three: int) -> None:
    if common_prefix_length(one, two) > common_prefix_length(one, three):
        assert distance(one, two) < distance(one, three)


@settings(deadline=None, max_examples=examples(20))
@given(st.integers(0, 8), st.binary(max_size=40), st.integers())
def test_a_key_for_a_bucket_lies_in_it(shared: int, own: bytes, seed: int) -> None:
    key = key_with_prefix(position(own), shared, Random(seed))
    assert common_prefix_length(position(own), position(key)) == shared


names = st.integers(0, 60).map(lambda number: Contact(b"peer %d" % number))


@settings(deadline=None, max_examples=examples(200))
@given(
    st.lists(names, max_size=20),
    st.randoms(use_true_random=False),
    st.booleans(),
    st.sets(names.map(lambda contact: contact.id)),
)
def test_a_lookup_ends_whatever_happens(seeds: list[Contact], random: Random, small: bool, bad: set[bytes]) -> None:
    setting = LookupSettings(k=random.choice([1, 4, 20]))
    lookup = Lookup(position(b"t"), seeds, b"own", setting, sees_everybody=small, is_suspect=bad.__contains__)
    now, waiting, asked = 0.0, list[bytes](), list[bytes]()
    for _ in range(2000):
        step = lookup.next_step(now)
        if isinstance(step, Done):
            break
        if isinstance(step, Ask):
            assert step.peers
            waiting += [contact.id for contact in step.peers]
            asked += [contact.id for contact in step.peers]
        elif waiting and random.random() < 0.7:
            peer_id = waiting.pop(random.randrange(len(waiting)))
            if random.random() < 0.7:
                closer = [Contact(b"peer %d" % random.randrange(5000)) for _ in range(random.randrange(25))]
                lookup.answered(peer_id, closer, now)
            else:
                lookup.failed(peer_id, now)
        else:
            assert step.until > now
            now = step.until
    else:
        pytest.fail("the lookup does not end")
    assert len(asked) == len(set(asked)) == lookup.asked <= MAX_ASKED
    assert b"own" not in asked


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.tuples(st.integers(0, 3), names, st.integers(0, 5))), st.integers(1, 12))
def test_records_never_lose_count(story: list[tuple[int, Contact, int]], limit: int) -> None:
    records, random = ProviderRecords(max_records=limit, max_of_provider=4), Random(1)
    model: dict[tuple[bytes, bytes], float] = {}
    for now, (action, peer, number) in enumerate(story):
        key = bytes([number]) * 32
        if action == 0:
            records.add(peer, [key], float(now * 300))
            model[peer.id, key] = now * 300 + 1200
        elif action == 1:
            records.withdraw(peer.id, [key])
            model.pop((peer.id, key), None)
        elif action == 2:
            records.goodbye(peer.id)
            model = {pair: time for pair, time in model.items() if pair[0] != peer.id}
        else:
            for _ in range(128):
                records.sweep(float(now * 300))
        found = records.get(key, float(now * 300), random)
        assert all(model.get((contact.id, key), 0) > now * 300 for contact in found)
        assert 0 <= records.statistics().records <= limit
    for _ in range(128):
        records.sweep(1e9)
    assert (records.statistics().records, records.statistics().providers) == (0, 0)


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.tuples(st.integers(0, 3), names)), positions)
def test_the_table_keeps_its_bounds(story: list[tuple[int, Contact]], target: int) -> None:
    table, suspects = RoutingTable(b"own", k=3), set[bytes]()
    for now, (action, peer) in enumerate(story):
        if action < 2:
            table.heard(peer, float(now))
            suspects.discard(peer.id)
        elif action == 2:
            table.failed(peer.id, float(now))
            suspects.add(peer.id)
        else:
            table.remove(peer.id)
        nearest = table.closest(target, 100)
        assert nearest == sorted(table.peers(), key=lambda contact: position(contact.id) ^ target)
        assert not suspects & {contact.id for contact in nearest}
        assert len(table) == len(table.seeds(target, 1000))
        assert len({contact.id for contact in nearest}) == len(nearest) <= len(table)
