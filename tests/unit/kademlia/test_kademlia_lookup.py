"""Lookups as scripts of what happened: whom to ask, whom to wait for, when to stop."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import position
from peili.kademlia.lookup import Ask, Done, Lookup, LookupSettings, Step, Wait

TARGET = position(b"what is looked for")
OWN = b"own"
SETTINGS = LookupSettings(k=4, alpha=3, slow_after=0.01, patience=0.04, timeout=1.0, enough_answers=2)
# Forty peers, nearest to the target first.
PEERS = sorted(
    (Contact(hashlib.sha256(bytes([number])).digest(), (b"address",)) for number in range(40)),
    key=lambda contact: position(contact.id) ^ TARGET,
)


def asked(step: Step) -> list[int]:
    assert isinstance(step, Ask), step
    return [PEERS.index(contact) for contact in step.peers]


def lookup(
    *seeds: int,
    settings: LookupSettings = SETTINGS,
    everybody: bool = False,
    suspects: str = "",
    spared: Sequence[int] = (),
) -> Lookup:
    doubted = {PEERS[int(number)].id for number in suspects.split()}
    return Lookup(
        TARGET,
        [PEERS[seed] for seed in seeds],
        OWN,
        settings,
        sees_everybody=everybody,
        spared=[PEERS[peer].id for peer in spared],
        is_suspect=doubted.__contains__,
    )


def answer(running: Lookup, peer: int, *closer: int, now: float = 0.001) -> None:
    running.answered(PEERS[peer].id, [PEERS[number] for number in closer], now)


def fail(running: Lookup, peer: int, now: float = 0.001) -> None:
    running.failed(PEERS[peer].id, now)


def test_the_nearest_seeds_are_asked_first_and_as_many_as_alpha() -> None:
    running = lookup(9, 5, 7, 3, 8)
    assert asked(running.next_step(0.0)) == [3, 5, 7]
    assert running.next_step(0.0) == Wait(until=0.01)


def test_closer_peers_are_asked_next_until_the_nearest_k_answered() -> None:
    running = lookup(10, 11, 12)
    assert asked(running.next_step(0.0)) == [10, 11, 12]
    answer(running, 10, 0, 1, 2, 3)
    answer(running, 11, 0, 1, 2, 3)
    assert asked(running.next_step(0.001)) == [0, 1]
    answer(running, 0)
    answer(running, 1)
    assert asked(running.next_step(0.002)) == [2, 3]
    answer(running, 2)
    assert isinstance(running.next_step(0.003), Wait)
    answer(running, 3)
    assert running.next_step(0.003) == Done()
    assert running.closest(4) == PEERS[:4]
    assert (running.asked, running.hops) == (7, 1)


def test_who_was_named_and_has_not_answered_is_unreached() -> None:
    running = lookup(10, 11)
    assert asked(running.next_step(0.0)) == [10, 11]
    assert running.unreached(4) == [], "our own table's peers are looked after by itself"
    answer(running, 10, 0, 1, 2)
    answer(running, 11, 0, 1, 2)
    assert asked(running.next_step(0.001)) == [0, 1, 2]
    answer(running, 0)
    fail(running, 1)
    assert running.unreached(4) == [PEERS[1], PEERS[2]]
    answer(running, 2, now=0.5)
    assert running.unreached(4) == [PEERS[1]]
    assert running.unreached(1) == []


def test_an_empty_answer_does_not_end_the_lookup_while_others_are_unasked() -> None:
    running = lookup(1, 2, 3, 4, 5)
    running.next_step(0.0)
    for peer in (1, 2, 3):
        answer(running, peer)
    assert asked(running.next_step(0.001)) == [4]


def test_a_slow_peer_gets_company_and_does_not_keep_the_lookup_from_ending() -> None:
    running = lookup(0, 1, 2, 3, 4)
    assert asked(running.next_step(0.0)) == [0, 1, 2]
    answer(running, 1)
    answer(running, 2)
    assert asked(running.next_step(0.001)) == [3]
    answer(running, 3, now=0.002)
    assert running.next_step(0.002) == Wait(until=0.01)
    assert asked(running.next_step(0.01)) == [4]
    answer(running, 4, now=0.011)
    assert running.next_step(0.011) == Done()


def test_with_nobody_else_left_slow_ones_are_waited_for_as_long_as_patience_lasts() -> None:
    running = lookup(0, 1, 2)
    running.next_step(0.0)
    answer(running, 0)
    answer(running, 1)
    assert running.next_step(0.02) == Wait(until=0.04)
    assert running.next_step(0.04) == Done()


def test_with_no_answer_at_all_the_timeout_counts() -> None:
    running = lookup(0)
    running.next_step(0.0)
    assert running.next_step(0.5) == Wait(until=1.0)
    assert running.next_step(1.0) == Done()


def test_a_late_answer_still_counts() -> None:
    running = lookup(0, 1)
    running.next_step(0.0)
    running.next_step(1.0)
    answer(running, 0, 2, now=1.1)
    assert asked(running.next_step(1.1)) == [2]


def test_a_failed_peer_is_replaced_by_the_next() -> None:
    running = lookup(0, 1, 2, 3, 4, 5)
    running.next_step(0.0)
    fail(running, 0)
    answer(running, 1)
    answer(running, 2)
    assert asked(running.next_step(0.001)) == [3, 4]


def test_where_everybody_is_seen_one_round_of_the_nearest_is_enough() -> None:
    running = lookup(*range(12), everybody=True)
    assert asked(running.next_step(0.0)) == [0, 1]
    answer(running, 0)
    answer(running, 1)
    assert running.next_step(0.001) == Done()


def test_those_that_are_asked_by_another_way_are_not_asked_and_count_as_answers() -> None:
    settings = replace(SETTINGS, enough_answers=3)
    running = lookup(*range(12), everybody=True, settings=settings, spared=[0, 1])
    assert asked(running.next_step(0.0)) == [2]
    answer(running, 2, 0, 1, 3)  # it names them, as everybody does
    assert running.next_step(0.001) == Done()


def test_one_that_fails_beside_them_is_replaced() -> None:
    settings = replace(SETTINGS, enough_answers=3)
    running = lookup(*range(12), everybody=True, settings=settings, spared=[0, 1])
    running.next_step(0.0)
    fail(running, 2)
    assert asked(running.next_step(0.001)) == [3]


def test_where_there_is_nobody_else_the_lookup_is_over_at_once() -> None:
    assert lookup(0, 1, everybody=True, spared=[0, 1]).next_step(0.0) == Done()


def test_a_suspect_is_not_spared() -> None:
    running = lookup(0, 1, everybody=True, suspects="0", spared=[0, 1])
    assert asked(running.next_step(0.0)) == [0]


def test_a_stranger_in_an_answer_proves_that_not_everybody_was_seen() -> None:
    running = lookup(*range(1, 12), everybody=True)
    assert asked(running.next_step(0.0)) == [1, 2]
    answer(running, 1, 2, 3)
    answer(running, 2, 0)
    assert asked(running.next_step(0.001)) == [0, 3]


def test_where_everybody_is_seen_a_frozen_peer_costs_the_slow_limit() -> None:
    running = lookup(*range(12), everybody=True)
    running.next_step(0.0)
    answer(running, 0)
    assert isinstance(running.next_step(0.005), Wait)
    assert asked(running.next_step(0.01)) == [2]
    answer(running, 2, now=0.011)
    assert running.next_step(0.011) == Done()


def test_a_liars_invented_peers_are_not_asked_all_at_once_and_then_no_more() -> None:
    running = lookup(20, 21, 22)
    running.next_step(0.0)
    answer(running, 20, 0, 1, 2, 3)  # invented, and nearer than anybody real
    assert asked(running.next_step(0.001)) == [0]
    answer(running, 21, 6, 7, 8, 9)
    answer(running, 22, 6, 7, 8, 9)
    assert asked(running.next_step(0.002)) == [1, 6]
    fail(running, 0, now=0.003)
    fail(running, 1, now=0.003)
    assert asked(running.next_step(0.003)) == [7, 8]
    for peer in (6, 7, 8):
        answer(running, peer, now=0.004)
    assert asked(running.next_step(0.004)) == [9]
    answer(running, 9, now=0.005)
    assert running.next_step(0.005) == Done()


def test_slow_peers_of_one_source_cast_doubt_on_its_others() -> None:
    running = lookup(20, 21, 22)
    running.next_step(0.0)
    answer(running, 20, 0, 1, 2, 3)
    answer(running, 21)
    answer(running, 22)
    assert asked(running.next_step(0.001)) == [0, 1]
    running.next_step(0.011)
    assert running.next_step(0.041) == Done()


def test_a_second_source_vouches_for_a_peer() -> None:
    running = lookup(20, 21, 22)
    running.next_step(0.0)
    answer(running, 20, 0, 1, 2)
    answer(running, 21, 0, 1, 2)
    answer(running, 22)
    assert asked(running.next_step(0.001)) == [0, 1, 2]


def test_liars_who_vouch_for_each_other_fall_together() -> None:
    running = lookup(20, 21, 22)
    running.next_step(0.0)
    answer(running, 20, 0, 1, 2, 3)
    answer(running, 21, 0, 1, 2, 3)
    assert asked(running.next_step(0.001)) == [0, 1]
    answer(running, 22, 6, 7, 8, 9)
    assert asked(running.next_step(0.002)) == [2]
    fail(running, 0, now=0.003)
    fail(running, 1, now=0.003)
    assert asked(running.next_step(0.003)) == [6, 7]
    answer(running, 6, now=0.004)
    assert asked(running.next_step(0.004)) == [8]


def test_one_real_name_does_not_buy_belief_in_invented_ones() -> None:
    running = lookup(20, 21, 22, settings=LookupSettings(k=8, alpha=6))
    running.next_step(0.0)
    answer(running, 21)
    answer(running, 22)
    answer(running, 20, 0, 1, 2, 3, 4, 5, 21)
    assert asked(running.next_step(0.001)) == [0, 1, 2, 3, 4, 5]
    assert running.next_step(0.011) == Wait(until=0.041)

    wider = lookup(20, 21, 22, settings=LookupSettings(k=8, alpha=3))
    wider.next_step(0.0)
    answer(wider, 21)
    answer(wider, 22)
    answer(wider, 20, 0, 1, 2, 3, 4, 5, 21)
    assert asked(wider.next_step(0.001)) == [0, 1, 2]
    assert isinstance(wider.next_step(0.011), Wait)


def test_an_answer_adds_at_most_k_peers() -> None:
    running = lookup(39)
    running.next_step(0.0)
    answer(running, 39, *range(20))
    assert running.known() == [*PEERS[:4], PEERS[39]]


def test_suspects_are_a_last_resort() -> None:
    running = lookup(0, 1, 2, suspects="0")
    assert asked(running.next_step(0.0)) == [1, 2]
    answer(running, 1)
    answer(running, 2)
    assert running.next_step(0.001) == Done()

    lonely = lookup(0, suspects="0")
    assert asked(lonely.next_step(0.0)) == [0]


def test_providers_come_once_and_again_with_their_addresses_and_never_ourselves() -> None:
    running = lookup(0, 1, 2)
    running.next_step(0.0)
    bare, full, own = Contact(b"p"), Contact(b"p", (b"address",)), Contact(OWN, (b"address",))
    assert running.answered(PEERS[0].id, [], 0.001, [bare, own]) == [bare]
    assert running.answered(PEERS[1].id, [], 0.001, [full, bare]) == [full]
    assert running.answered(PEERS[2].id, [], 0.001, [full]) == []
    assert running.providers == [full]


def test_an_answer_of_a_peer_that_was_not_asked_says_nothing() -> None:
    running = lookup(0)
    assert running.answered(PEERS[5].id, [PEERS[6]], 0.0, [Contact(b"p")]) == []
    assert running.answered(PEERS[0].id, [PEERS[6]], 0.0, [Contact(b"p")]) == []
    assert running.known() == [PEERS[0]]


def test_the_caller_may_stop() -> None:
    running = lookup(0, 1)
    running.next_step(0.0)
    running.stop()
    assert running.next_step(0.0) == Done()


def test_without_seeds_there_is_nothing_to_do() -> None:
    assert lookup().next_step(0.0) == Done()


def test_settings_follow_the_measured_round_trip_within_limits() -> None:
    near, far = LookupSettings.measured(0.0002, alpha=1), LookupSettings.measured(0.2, alpha=50)
    assert (near.slow_after, near.patience, near.timeout, near.alpha) == (0.005, 0.03, 1.0, 3)
    assert (far.slow_after, far.patience, far.timeout, far.alpha) == (0.5, 1.0, 5.0, 10)
