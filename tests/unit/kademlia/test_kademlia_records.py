from __future__ import annotations

from random import Random

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import key_digest
from peili.kademlia.providers import Providers
from peili.kademlia.records import (
    EXPIRATION_INTERVAL,
    MAX_PROVIDERS_OF_KEY,
    SHARDS,
    SWEPT_SHARDS,
    ProviderRecords,
)

RANDOM = Random(1)


def peer(name: object) -> Contact:
    return Contact(f"peer {name}".encode(), (b"address",), 5000, "zone")


def keys(amount: int, what: object = "") -> list[bytes]:
    return [key_digest(f"{what} {number}") for number in range(amount)]


def sweep_all(records: ProviderRecords, now: float) -> int:
    return sum(records.sweep(now) for _ in range(SHARDS // SWEPT_SHARDS))


def test_what_is_provided_is_found() -> None:
    records = ProviderRecords()
    one, two = keys(2)
    assert records.add(peer(1), [one, two], 100.0) == 2
    assert records.add(peer(2), [one], 100.0) == 1
    assert set(records.get(one, 101.0, RANDOM)) == {peer(1), peer(2)}
    assert records.get(two, 101.0, RANDOM) == [peer(1)]
    assert records.get(keys(1, "other")[0], 101.0, RANDOM) == []
    assert (records.statistics().records, records.statistics().providers) == (3, 2)


def test_a_record_expires_unless_told_again() -> None:
    records = ProviderRecords()
    one, two = keys(2)
    records.add(peer(1), [one, two], 0.0)
    records.add(peer(1), [one], 600.0)
    assert records.statistics().records == 2
    assert records.get(two, EXPIRATION_INTERVAL - 1, RANDOM)
    assert not records.get(two, EXPIRATION_INTERVAL, RANDOM)
    assert records.get(one, EXPIRATION_INTERVAL, RANDOM)
    assert sweep_all(records, EXPIRATION_INTERVAL) == 1
    assert sweep_all(records, 600.0 + EXPIRATION_INTERVAL) == 1
    assert records.statistics().providers == 0


def test_a_shorter_life_is_respected_and_a_longer_one_is_cut() -> None:
    records = ProviderRecords()
    one, two = keys(2)
    records.add(peer(1), [one], 0.0, ttl=10)
    records.add(peer(1), [two], 0.0, ttl=1e9)
    assert not records.get(one, 10.0, RANDOM)
    assert not records.get(two, EXPIRATION_INTERVAL, RANDOM)


def test_withdrawal_takes_only_what_is_named_and_only_ones_own() -> None:
    records = ProviderRecords()
    one, two = keys(2)
    records.add(peer(1), [one, two], 0.0)
    records.add(peer(2), [one], 0.0)
    assert records.withdraw(peer(1).id, [one, keys(1, "unknown")[0], b"short"]) == 1
    assert records.get(one, 0.0, RANDOM) == [peer(2)]
    assert records.get(two, 0.0, RANDOM) == [peer(1)]
    assert records.withdraw(b"stranger", [one]) == 0


def test_goodbye_hides_all_records_at_once_and_a_return_revives_none() -> None:
    records = ProviderRecords()
    one, two = keys(2)
    records.add(peer(1), [one, two], 0.0)
    records.goodbye(peer(1).id)
    assert not records.get(one, 0.0, RANDOM)
    records.add(peer(1), [two], 1.0)
    assert not records.get(one, 1.0, RANDOM)
    assert records.get(two, 1.0, RANDOM) == [peer(1)]
    assert sweep_all(records, 2.0) == 2
    assert records.get(two, 2.0, RANDOM) == [peer(1)]
    records.goodbye(b"stranger")


def test_suspects_are_left_out_until_heard_of() -> None:
    records = ProviderRecords()
    (one,) = keys(1)
    records.add(peer(1), [one], 0.0)
    records.suspect(peer(1).id)
    assert not records.get(one, 0.0, RANDOM)
    records.heard(peer(1).id)
    assert records.get(one, 0.0, RANDOM)
    records.suspect(peer(1).id)
    records.add(peer(1), [one], 1.0)
    assert records.get(one, 1.0, RANDOM)


def test_a_hot_key_keeps_a_hundred_and_answers_with_twenty_random_ones() -> None:
    records = ProviderRecords()
    (one,) = keys(1)
    for number in range(1000):
        assert records.add(peer(number), [one], float(number) / 10) == 1
    assert records.statistics().records == MAX_PROVIDERS_OF_KEY
    assert records.statistics().providers == MAX_PROVIDERS_OF_KEY
    assert set(records.get(one, 100.0, RANDOM, 1000)) == {peer(number) for number in range(900, 1000)}
    assert len(records.get(one, 100.0, RANDOM)) == 20
    assert records.get(one, 100.0, Random(1)) != records.get(one, 100.0, Random(2))


def test_of_a_full_key_those_that_left_or_are_suspect_go_first() -> None:
    records = ProviderRecords()
    (one,) = keys(1)
    for number in range(MAX_PROVIDERS_OF_KEY):
        records.add(peer(number), [one], 0.0)
    records.suspect(peer(70).id)
    records.add(peer("new"), [one], 0.0)
    records.heard(peer(70).id)
    assert peer(70) not in records.get(one, 0.0, RANDOM, 1000)
    assert len(records.get(one, 0.0, RANDOM, 1000)) == MAX_PROVIDERS_OF_KEY


def test_one_provider_has_a_limit() -> None:
    records = ProviderRecords(max_of_provider=10)
    assert records.add(peer(1), keys(15), 0.0) == 10
    assert records.add(peer(1), keys(15)[:10], 1.0) == 10
    assert records.add(peer(2), keys(5), 0.0) == 5


def test_a_flood_does_not_push_out_the_others() -> None:
    records = ProviderRecords(max_records=1000, max_of_provider=2000)
    honest = keys(50, "honest")
    records.add(peer("honest"), honest, 0.0)
    assert records.add(peer("flood"), keys(2000, "flood"), 0.0) == 950
    late = keys(50, "late")
    assert records.add(peer("late"), late, 0.0) > 0
    for _ in range(20):
        records.add(peer("late"), late, 0.0)
    assert all(records.get(key, 0.0, RANDOM) for key in honest)
    assert all(records.get(key, 0.0, RANDOM) for key in late)
    assert records.statistics().records == 1000


def test_keys_of_another_length_are_refused() -> None:
    records = ProviderRecords()
    assert records.add(peer(1), [b"", b"short", bytes(33)], 0.0) == 0
    assert records.get(b"short", 0.0, RANDOM) == []
    assert records.statistics().providers == 0


def test_peers_are_bounded() -> None:
    providers = Providers(limit=2)
    assert providers.take_in(peer(1))
    assert providers.take_in(peer(2))
    assert providers.take_in(peer(3)) is None


def test_two_hundred_thousand_records_are_cheap() -> None:
    random = Random(1)
    records = ProviderRecords()
    for number in range(20):
        for _ in range(5):
            records.add(peer(number), [random.randbytes(32) for _ in range(500)], 0.0)
    few = records.statistics()
    assert few.records == 50_000
    for number in range(20):
        for _ in range(3):
            records.add(peer(number), [random.randbytes(32) for _ in range(2500)], 0.0)
    many = records.statistics()
    assert many.records == 200_000
    assert many.bytes / many.records < 50
    assert few.bytes / few.records < 60


# Whether nobody has it


def test_nobody_has_what_no_record_names() -> None:
    records = ProviderRecords()
    one, other = keys(2)
    assert records.names_nobody(one, 0.0)
    records.add(peer(1), [one], 0.0)
    assert not records.names_nobody(one, EXPIRATION_INTERVAL - 1)
    assert records.names_nobody(other, 1.0)
    assert records.names_nobody(one, EXPIRATION_INTERVAL), "it has expired"
    assert not records.names_nobody(one[:-1], 1.0)


def test_a_suspect_may_have_it_and_who_left_has_nothing() -> None:
    records = ProviderRecords()
    (one,) = keys(1)
    records.add(peer(1), [one], 0.0)
    records.suspect(peer(1).id)
    assert records.get(one, 1.0, RANDOM) == []
    assert not records.names_nobody(one, 1.0)
    records.goodbye(peer(1).id)
    assert records.names_nobody(one, 1.0)


def test_who_was_turned_away_may_have_it_as_long_as_the_record_would_have_lived() -> None:
    (unknown,) = keys(1, "unknown")
    of_provider = ProviderRecords(max_of_provider=2)
    of_provider.add(peer(1), keys(2), 0.0)
    assert of_provider.names_nobody(unknown, 1.0)
    of_provider.add(peer(1), keys(3), 5.0)
    full = ProviderRecords(max_records=4000)
    full.add(peer(1), keys(4000), 0.0)
    assert full.names_nobody(unknown, 1.0)
    full.add(peer(2), keys(1, "displaces another"), 5.0)
    assert full.get(keys(1, "displaces another")[0], 6.0, RANDOM) == [peer(2)]
    crowded = ProviderRecords()
    crowded._providers = Providers(limit=1)
    crowded.add(peer(1), keys(1), 0.0)
    assert crowded.names_nobody(unknown, 1.0)
    crowded.add(peer(2), keys(1), 5.0)
    for records in (of_provider, full, crowded):
        assert not records.names_nobody(unknown, 6.0)
        assert records.names_nobody(unknown, 5.0 + EXPIRATION_INTERVAL)
