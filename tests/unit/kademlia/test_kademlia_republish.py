from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import digest_position, key_digest, position
from peili.kademlia.own_message import MAX_KEYS
from peili.kademlia.republish import RETRY_INTERVAL, Republisher, batches
from peili.kademlia.view import View


def keys(amount: int) -> list[bytes]:
    return [key_digest(str(number)) for number in range(amount)]


def network(amount: int) -> list[Contact]:
    return [Contact(f"peer {number}".encode()) for number in range(amount)]


def due_keys(sweep: Republisher, now: float, size: int = 10) -> list[bytes]:
    return [key for region in sweep.due(now, size) for key in region.keys]


def test_new_keys_are_due_at_once_then_again_soon_until_told() -> None:
    sweep = Republisher()
    sweep.add(keys(3))
    assert set(due_keys(sweep, 1.0)) == set(keys(3))
    assert due_keys(sweep, 1.0 + RETRY_INTERVAL - 1) == []
    assert set(due_keys(sweep, 1.0 + RETRY_INTERVAL)) == set(keys(3))
    sweep.told(keys(3), 40.0)
    assert due_keys(sweep, 40.0 + RETRY_INTERVAL) == []
    sweep.add(keys(4))
    assert due_keys(sweep, 100.0) == [keys(4)[3]]


def test_every_key_is_told_between_half_and_one_and_a_half_intervals_later() -> None:
    sweep, told, gaps = Republisher(), dict.fromkeys(keys(2000), 0.0), list[float]()
    sweep.add(keys(2000))
    sweep.due(0.0, 10)
    sweep.told(keys(2000), 0.0)
    work = Counter[int]()
    for now in range(1, 3000):
        for region in sweep.due(float(now), 10):
            gaps += [now - told[key] for key in region.keys]
            told.update(dict.fromkeys(region.keys, float(now)))
            work[now] += len(region.keys)
            sweep.told(region.keys, float(now))
    assert min(gaps) >= 300
    assert max(gaps) <= 901
    assert max(work.values()) < 500  # spread, in slices of about 250
    assert min(Counter(key for key in told).values()) == 1
    assert min(told.values()) > 2100


def test_removed_keys_are_never_due() -> None:
    sweep = Republisher()
    sweep.add(keys(200))
    sweep.remove(keys(100))
    sweep.remove([keys(101)[100], key_digest("unknown")])
    assert set(due_keys(sweep, 0.0)) == set(keys(200)[101:])
    assert len(sweep) == 99
    assert keys(1)[0] not in sweep
    assert keys(200)[199] in sweep


def test_regions_are_neighbourhoods_of_about_k_nodes_and_fit_one_message() -> None:
    sweep = Republisher()
    sweep.add(keys(3000))
    assert [len(region.keys) for region in sweep.due(0.0, 20)] == [1000, 1000, 1000]
    sweep = Republisher()
    sweep.add(keys(3000))
    regions = sweep.due(0.0, 1000)
    assert len(regions) == 64
    for region in regions:
        assert region.target in region.keys
        assert len({digest_position(key) >> 250 for key in region.keys}) == 1


def test_batches_bring_each_key_to_its_closest_peers() -> None:
    view = View(network(100))
    told = batches(keys(50), view.holders)
    holders: dict[bytes, set[bytes]] = {key: {b.peer_id for b in told if key in b.keys} for key in keys(50)}
    for key, peers in holders.items():
        nearest = sorted(network(100), key=lambda c: position(c.id) ^ digest_position(key))[:20]
        assert peers == {contact.id for contact in nearest}
    many = batches(keys(2500), View(network(2)).holders)
    assert [len(batch.keys) for batch in many] == [MAX_KEYS, MAX_KEYS, 500] * 2


@pytest.mark.parametrize("size", [5, 25, 300])
def test_a_peer_that_joins_is_told_exactly_the_keys_it_is_close_to(size: int) -> None:
    sweep, peers = Republisher(), network(size)
    sweep.add(keys(1500))
    view = View(peers)
    newcomer = peers[-1].id
    told = [key for batch in sweep.joined(newcomer, view.holders) for key in batch.keys]
    wanted = {key for key in keys(1500) if newcomer in view.closest(digest_position(key))}
    assert len(told) == len(set(told))
    assert wanted
    assert set(told) == wanted


def test_a_few_keys_that_do_not_concern_a_newcomer_hide_no_farther_ones() -> None:
    sweep, peers = Republisher(), network(300)
    sweep.add(keys(60))
    view = View(peers)
    for newcomer in peers[:100]:
        told = {key for batch in sweep.joined(newcomer.id, view.holders) for key in batch.keys}
        assert told == {key for key in keys(60) if newcomer.id in view.closest(digest_position(key))}


@pytest.mark.parametrize("size", [5, 25, 300])
def test_who_takes_the_place_of_one_that_left_is_told(size: int) -> None:
    sweep, peers = Republisher(), network(size)
    sweep.add(keys(1500))
    before, after = View(peers), View(peers[:-1])
    gone = peers[-1].id
    told = {(batch.peer_id, key) for batch in sweep.left(gone, after.closest) for key in batch.keys}
    wanted = {
        (peer_id, key)
        for key in keys(1500)
        for peer_id in set(after.closest(digest_position(key))) - set(before.closest(digest_position(key)))
    }
    assert told == wanted
    assert bool(told) == (size > 20)


def test_a_planner_of_many_keys_gives_way() -> None:
    sweep, peers = Republisher(), network(5)
    sweep.add(keys(3000))
    first = next(sweep.joined(peers[0].id, View(peers).closest))
    assert len(first.keys) <= 500


def test_a_planner_that_finds_nothing_for_long_gives_way_too() -> None:
    sweep, newcomer, asked, longest = Republisher(), network(1)[0].id, 0, 0
    sweep.add(keys(3000))

    def closest(where: int) -> list[bytes]:
        nonlocal asked
        asked += 1
        return [newcomer] if position(newcomer) ^ where < 1 << 254 else []

    for _ in sweep.joined(newcomer, closest):
        longest, asked = max(longest, asked), 0
    assert 0 < longest <= 500
    assert asked == 0


def test_keys_of_another_length_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Republisher().add([b"short"])


def test_an_empty_sweep_has_nothing_to_do() -> None:
    sweep = Republisher()
    assert sweep.due(0.0, 1000) == []
    assert list(sweep.joined(b"peer", View(network(3)).closest)) == []
    sweep.told(keys(1), 0.0)
    sweep.add(keys(1))
    sweep.remove(keys(1))
    assert sweep.due(math.inf, Random(1).randrange(1, 100)) == []


@pytest.mark.parametrize("size", [1, 19, 20, 21, 60])
def test_holders_are_the_closest_in_any_order(size: int) -> None:
    view = View(network(size))
    for key in keys(20):
        where = digest_position(key)
        assert sorted(view.holders(where)) == sorted(view.closest(where))
        assert len(view.holders(where)) == min(size, 20)
