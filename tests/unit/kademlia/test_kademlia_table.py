from __future__ import annotations

from random import Random

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import common_prefix_length, position
from peili.kademlia.table import (
    CHECK_INTERVAL,
    MAX_CHECKS,
    MAX_FAILURES,
    REFRESH_INTERVAL,
    RoutingTable,
)

OWN = b"own"


def peers(amount: int, shared: int | None = None, seed: int = 1) -> list[Contact]:
    """Random peers, or those whose position shares exactly so many bits with ours."""
    random, found = Random(seed), list[Contact]()
    while len(found) < amount:
        peer_id = random.randbytes(38)
        if shared is None or common_prefix_length(position(OWN), position(peer_id)) == shared:
            found.append(Contact(peer_id, (b"address",)))
    return found


def filled(contacts: list[Contact], k: int = 20) -> RoutingTable:
    table = RoutingTable(OWN, k)
    for contact in contacts:
        table.heard(contact, 0.0)
    return table


def test_a_peer_is_new_once_and_we_are_not_our_own_peer() -> None:
    table = RoutingTable(OWN)
    (peer,) = peers(1)
    assert table.heard(peer, 0.0)
    assert not table.heard(peer, 1.0)
    assert not table.heard(Contact(OWN), 1.0)
    assert len(table) == 1


def test_closest_is_the_nearest_by_xor() -> None:
    everyone, target = peers(15), position(b"target")
    table = filled(everyone)
    assert table.closest(target, 5) == sorted(everyone, key=lambda c: position(c.id) ^ target)[:5]


def test_a_newer_contact_replaces_an_older_one_but_deletes_nothing() -> None:
    table = filled([Contact(b"peer", (b"old",), 5000, "zone")])
    table.heard(Contact(b"peer", (b"new",)), 1.0)
    assert table.get(b"peer") == Contact(b"peer", (b"new",), 5000, "zone")


def test_a_full_bucket_keeps_its_members_and_lets_the_freshest_wait() -> None:
    first, second, third, fourth = peers(4, shared=0)
    table = filled([first, second, third, fourth], k=2)
    table.looked_up(position(OWN), 0.0)
    assert set(table.peers()) == {first, second}
    assert not table.sees_everybody
    table.failed(first.id, 1.0)
    assert set(table.peers()) == {second, fourth}


def test_the_replacement_cache_is_bounded() -> None:
    everyone = peers(10, shared=0)
    table = filled(everyone, k=2)
    for contact in everyone:
        table.remove(contact.id)
    assert len(table) <= 2
    table = filled(everyone, k=2)
    for contact in (*everyone[:2], *everyone[8:]):
        table.remove(contact.id)
    assert len(table) == 0


def test_one_failure_makes_a_suspect_and_one_success_ends_it() -> None:
    table = filled(everyone := peers(3))
    table.failed(everyone[0].id, 1.0)
    assert everyone[0] not in table.closest(0)
    assert everyone[0] not in table.peers()
    assert table.is_suspect(everyone[0].id, 1.0)
    assert table.seeds(0)[-1] == everyone[0]
    assert not table.heard(everyone[0], 2.0)
    assert everyone[0] in table.closest(0)
    assert not table.is_suspect(everyone[0].id, 2.0)


def test_strangers_can_be_suspect_too_for_a_while() -> None:
    table = RoutingTable(OWN)
    table.failed(b"stranger", 1.0)
    assert table.is_suspect(b"stranger", 60.0)
    assert not table.is_suspect(b"stranger", 61.0)


def test_a_suspect_gives_its_place_to_a_newcomer() -> None:
    first, second, third = peers(3, shared=0)
    table = filled([first, second], k=2)
    table.failed(second.id, 1.0)
    assert table.wants(third.id)
    assert table.heard(third, 2.0)
    assert table.get(second.id) is None
    assert len(table) == 2


def test_who_is_wanted() -> None:
    first, second, third = peers(3, shared=0)
    table = filled([first], k=2)
    assert table.wants(second.id)
    assert not table.wants(first.id)
    assert not table.wants(OWN)
    table.heard(second, 0.0)
    assert not table.wants(third.id)
    table.failed(first.id, 0.0)
    assert table.wants(first.id)
    assert table.wants(third.id)


def test_a_silent_peer_is_forgotten_after_many_failures() -> None:
    table = filled(everyone := peers(1))
    for failure in range(MAX_FAILURES - 1):
        table.failed(everyone[0].id, float(failure))
    assert len(table) == 1
    table.failed(everyone[0].id, 100.0)
    assert len(table) == 0


def test_suspects_are_checked_with_growing_pauses() -> None:
    table = filled(everyone := peers(1))
    table.failed(everyone[0].id, 0.0)
    assert table.to_check(0.9) == []
    assert table.to_check(1.0) == everyone
    assert table.to_check(1.1) == []
    table.failed(everyone[0].id, 2.0)
    assert table.to_check(3.9) == []
    assert table.to_check(4.0) == everyone


def test_the_silent_are_checked_and_at_most_so_many_at_once() -> None:
    table = filled(everyone := peers(20))
    assert table.to_check(CHECK_INTERVAL - 1) == []
    table.heard(everyone[0], CHECK_INTERVAL - 1)
    first = table.to_check(CHECK_INTERVAL)
    assert len(first) == MAX_CHECKS
    assert set(first) | set(table.to_check(CHECK_INTERVAL)) == set(everyone[1:])
    assert table.to_check(CHECK_INTERVAL + 1) == []


def test_refresh_walks_the_buckets_to_the_neighbourhood_once_an_interval() -> None:
    table = filled(peers(200))
    keys = table.to_refresh(0.0, Random(1))
    assert keys[-1] == OWN
    assert [common_prefix_length(position(OWN), position(key)) for key in keys[:-1]] == list(range(len(keys) - 1))
    assert 2 <= len(keys) <= 6
    assert table.to_refresh(1.0, Random(1)) == []
    table.looked_up(position(keys[0]), 100.0)
    assert len(table.to_refresh(REFRESH_INTERVAL, Random(1))) == len(keys) - 1
    assert RoutingTable(OWN).to_refresh(0.0, Random(1)) == []


def test_a_small_network_is_seen_whole_and_a_large_one_is_estimated() -> None:
    assert not filled(peers(12)).sees_everybody  # a node that just joined knows few of many
    small = filled(peers(12))
    small.looked_up(position(OWN), 1.0)
    assert small.sees_everybody
    assert small.estimated_size() == 13
    for seed in range(5):
        large = filled(peers(1000, seed=seed))
        large.looked_up(position(OWN), 1.0)
        assert not large.sees_everybody
        assert 400 < large.estimated_size() < 2500


def test_goodbye_makes_room_for_who_waits() -> None:
    first, second = peers(2, shared=0)
    table = filled([first, second], k=1)
    table.remove(first.id)
    assert table.peers() == [second]
    table.remove(b"nobody")
