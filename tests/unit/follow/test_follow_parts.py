"""Growth, slots, poison, serving and the wait for small blobs."""

from __future__ import annotations

import pytest

from peili.follow.growth import Growth, GrowthWatch
from peili.follow.message import Follow, Keep, Lead, Peer, Source, Wait
from peili.follow.poison import BAN_SECONDS, MAX_BANS, MAX_LIARS, MAX_PULLS, TRIES, Poison
from peili.follow.serving import Admission, admit
from peili.follow.settings import FollowSettings
from peili.follow.slots import LAST_SLOT_SECONDS, MAX_REQUEUES, Slots, Verdict
from peili.follow.wait import AskAgain, GoUpstream, TakeFrom, next_step

S = FollowSettings(slots=3)
KEYS = [bytes([n]) * 32 for n in range(8)]


# Growth


def test_existing_and_having_bytes_is_not_growth() -> None:
    watch = GrowthWatch(0.0, lapse=1.0, stall=2.0, size=500)
    assert watch.observe(0.5, 500) is Growth.WAITING
    assert watch.next_deadline(0.5) == 1.0
    assert watch.observe(1.0, 500) is Growth.LAPSED
    assert watch.observe(1.1, 501) is Growth.GROWING, "a lapsed lead that grows leads again"
    assert watch.observe(3.2, 501) is Growth.STALLED
    assert watch.observe(3.3, 600) is Growth.GROWING
    assert (watch.size, watch.grew, watch.last_growth) == (600, True, 3.3)


def test_an_ingest_that_does_not_exist_yet_is_waited_for() -> None:
    watch = GrowthWatch(0.0, lapse=1.0, stall=2.0)
    assert watch.observe(0.1, None) is Growth.WAITING
    assert watch.observe(0.2, 0) is Growth.WAITING
    assert watch.observe(0.3, 10) is Growth.GROWING


@pytest.mark.parametrize("size", [None, 5])
def test_an_ingest_that_is_gone_or_begun_anew_has_vanished(size: int | None) -> None:
    watch = GrowthWatch(0.0, lapse=1.0, stall=2.0, size=10)
    assert watch.observe(0.1, size) is Growth.VANISHED
    assert watch.observe(0.2, 20) is Growth.VANISHED
    assert watch.state(9.0).over


def test_a_commit_is_a_commit_though_the_ingest_is_gone() -> None:
    watch = GrowthWatch(0.0, lapse=1.0, stall=2.0, size=10)
    assert watch.observe(0.1, None, committed=True) is Growth.COMMITTED


# Slots


def test_the_last_slot_waits_only_a_moment() -> None:
    slots = Slots(S)
    numbers = [slots.hold(key, 0.0) for key in KEYS[:3]]
    assert [slots.verdict(number, 0.1) for number in numbers] == [Verdict.HOLD] * 3
    assert slots.next_deadline(numbers[2], 0.1) == LAST_SLOT_SECONDS
    assert slots.verdict(numbers[2], LAST_SLOT_SECONDS) is Verdict.REQUEUE
    assert slots.verdict(numbers[0], LAST_SLOT_SECONDS) is Verdict.HOLD


def test_with_a_lead_in_the_queue_a_waiting_response_gives_way_at_once() -> None:
    slots = Slots(S)
    slots.lead_queued(KEYS[5])
    numbers = [slots.hold(key, 0.0) for key in KEYS[:3]]
    assert slots.verdict(numbers[1], 0.0) is Verdict.HOLD
    assert slots.verdict(numbers[2], 0.0) is Verdict.REQUEUE
    slots.end(numbers[2])
    assert slots.verdict(numbers[1], 0.0) is Verdict.HOLD, "a slot is free for the lead"


def test_downloads_of_our_own_count_as_taken_slots() -> None:
    slots = Slots(S)
    for key in KEYS[4:7]:
        slots.lead_queued(key)
    slots.lead_grew(KEYS[4], 0.0)
    slots.lead_grew(KEYS[5], 0.0)
    assert slots.leads_queued == 1
    number = slots.hold(KEYS[0], 0.0)
    assert slots.verdict(number, 0.0) is Verdict.REQUEUE
    slots.lead_over(KEYS[4])
    assert slots.verdict(number, 0.0) is Verdict.HOLD


def test_after_its_requeues_it_is_released_only_where_nothing_else_moves() -> None:
    slots = Slots(S)
    slots.lead_queued(KEYS[7])
    others = [slots.hold(key, 0.0) for key in KEYS[1:3]]
    for _ in range(MAX_REQUEUES):
        number = slots.hold(KEYS[0], 0.0)
        assert slots.verdict(number, 0.0) is Verdict.REQUEUE
        slots.end(number)
    number = slots.hold(KEYS[0], 0.0)
    assert slots.verdict(number, 0.0) is Verdict.RELEASE
    assert slots.verdict(number, 0.1) is Verdict.HOLD, "one gives its slot back, and the lead takes that"
    slots.grew(others[0])
    assert slots.verdict(number, 0.0) is Verdict.HOLD


def test_growth_makes_it_an_ordinary_download() -> None:
    slots = Slots(S)
    numbers = [slots.hold(key, 0.0) for key in KEYS[:3]]
    slots.grew(numbers[2])
    assert slots.ungrown == 2
    assert slots.verdict(numbers[2], 5.0) is Verdict.HOLD


def test_a_containerd_without_the_limit_waits_with_all() -> None:
    slots = Slots(FollowSettings(slots=0))
    slots.lead_queued(KEYS[7])
    numbers = [slots.hold(key, 0.0) for key in KEYS[:6]]
    assert all(slots.verdict(number, 9.0) is Verdict.HOLD for number in numbers)


def test_a_lead_queues_while_what_has_a_slot_moves() -> None:
    slots = Slots(S)
    for key in KEYS[:4]:
        slots.lead_queued(key)
    assert not slots.queues(KEYS[3], 0.0), "nothing moves"
    slots.lead_grew(KEYS[0], 1.0)
    assert slots.queues(KEYS[3], 1.0)
    assert not slots.queues(KEYS[0], 1.0), "it has one itself"
    assert not slots.queues(KEYS[3], 1.0 + S.longest_stall)
    held = slots.hold(KEYS[5], 1.0)
    assert not slots.queues(KEYS[3], 1.0 + S.longest_stall)
    slots.grew(held)
    assert slots.queues(KEYS[3], 1.0 + S.longest_stall)
    slots.lead_over(KEYS[3])
    assert not slots.queues(KEYS[3], 1.0 + S.longest_stall)


def test_a_lead_queues_also_in_the_moment_in_which_another_ends() -> None:
    slots = Slots(S)
    for key in KEYS[:2]:
        slots.lead_queued(key)
    slots.lead_grew(KEYS[0], 1.0)
    slots.lead_over(KEYS[0])
    assert slots.queues(KEYS[1], 1.1)
    assert not slots.queues(KEYS[1], 1.0 + S.longest_stall)


def test_a_lead_queues_behind_one_that_has_just_ended_though_another_hangs() -> None:
    slots = Slots(S)
    slots.lead_queued(KEYS[2])
    slots.lead_grew(KEYS[0], 0.0)
    slots.lead_grew(KEYS[1], 7.0)
    slots.lead_over(KEYS[1])
    assert slots.queues(KEYS[2], 7.1)


def test_a_lead_that_lapsed_and_grows_after_all_has_a_slot() -> None:
    slots = Slots(S)
    for key in KEYS[:2]:
        slots.lead_queued(key)
    slots.lead_over(KEYS[0])
    slots.lead_grew(KEYS[0], 4.0)
    assert slots.queues(KEYS[1], 4.1)
    slots.lead_over(KEYS[0])
    slots.lead_grew(KEYS[1], 4.2)
    assert not slots.is_outrun(KEYS[1], 4.8), "nobody is beside it"


def test_a_lead_is_outrun_while_another_of_the_node_grows_and_it_does_not() -> None:
    slots = Slots(S)
    for key in KEYS[:3]:
        slots.lead_queued(key)
        slots.lead_grew(key, 0.0)
    slots.lead_grew(KEYS[1], 0.9)
    assert slots.is_outrun(KEYS[0], 1.0)
    assert not slots.is_outrun(KEYS[1], 1.0), "it grows"
    assert not slots.is_outrun(KEYS[0], 0.4), "so soon nobody knows"
    assert not slots.is_outrun(KEYS[0], 0.9 + S.stall), "nothing grows any more"
    slots.lead_grew(KEYS[0], 1.2)
    assert not slots.is_outrun(KEYS[0], 1.8), "the others stopped before it"
    slots.lead_grew(KEYS[1], 1.9)
    assert slots.is_outrun(KEYS[0], 2.0)
    assert not slots.is_outrun(KEYS[3], 1.0), "it is no lead"
    slots.lead_over(KEYS[1])
    assert not slots.is_outrun(KEYS[0], 2.1), "the other one has ended, and it has the link for itself"


# Poison


def test_a_complete_body_without_a_commit_bans_its_unverified_sources() -> None:
    poison = Poison()
    poison.relayed(KEYS[0], b"liar", 0.0, committed=False)
    poison.relayed(KEYS[0], b"good", 0.0, committed=True)
    poison.completed(KEYS[0])
    assert poison.vanished(KEYS[0], 1.0) == {b"liar"}
    assert poison.banned(KEYS[0], 1.0) == {b"liar"}
    assert poison.verified_only(KEYS[0], 1.0)
    assert not poison.banned(KEYS[1], 1.0)
    assert not poison.banned(KEYS[0], 1.0 + BAN_SECONDS)


def test_a_pull_cancelled_in_the_middle_blames_nobody_unless_it_begins_from_0() -> None:
    poison = Poison()
    poison.relayed(KEYS[0], b"a", 0.0, committed=False)
    assert not poison.vanished(KEYS[0], 1.0)
    assert not poison.asked(KEYS[0], 500, 1.0)
    assert poison.asked(KEYS[0], 0, 1.0) == {b"a"}


def test_a_commit_forgives() -> None:
    poison = Poison()
    poison.relayed(KEYS[0], b"a", 0.0, committed=False)
    poison.completed(KEYS[0])
    poison.committed(KEYS[0])
    assert not poison.vanished(KEYS[0], 1.0)
    assert not poison.asked(KEYS[0], 0, 1.0)


def test_who_says_that_wrong_bytes_are_verified_is_banned_for_everything() -> None:
    poison = Poison()
    poison.relayed(KEYS[0], b"liar", 0.0, committed=True)
    poison.completed(KEYS[0])
    assert poison.vanished(KEYS[0], 1.0) == {b"liar"}
    assert poison.banned(KEYS[0], 1.0) == poison.banned(KEYS[1], 1.0) == {b"liar"}
    poison.committed(KEYS[0])
    assert poison.banned(KEYS[1], 1.0) == {b"liar"}, "upstream had the right ones"
    assert not poison.banned(KEYS[1], 1.0 + BAN_SECONDS)


@pytest.mark.parametrize(("sources", "complete"), [((b"a", b"b"), True), ((b"a",), False)])
def test_a_part_of_a_wrong_body_is_no_proof_of_lying(sources: tuple[bytes, ...], complete: bool) -> None:
    poison = Poison()
    for source in sources:
        poison.relayed(KEYS[0], source, 0.0, committed=True)
    if complete:
        poison.completed(KEYS[0])
    assert poison.asked(KEYS[0], 0, 1.0) == set(sources)
    assert not poison.banned(KEYS[1], 1.0)


def test_a_digest_that_several_were_wrong_about_is_left_to_upstream() -> None:
    poison = Poison()
    for number in range(TRIES):
        assert not poison.is_hopeless(KEYS[0], 1.0)
        poison.relayed(KEYS[0], b"%d" % number, 0.0, committed=number % 2 == 0)
        poison.completed(KEYS[0])
        poison.vanished(KEYS[0], 1.0)
    assert poison.banned(KEYS[0], 1.0) == {b"%d" % number for number in range(TRIES)}
    assert poison.is_hopeless(KEYS[0], 1.0)
    assert not poison.is_hopeless(KEYS[1], 1.0)
    assert not poison.is_hopeless(KEYS[0], 1.0 + BAN_SECONDS)


def test_poison_is_bounded() -> None:
    poison = Poison()
    for number in range(MAX_BANS + 100):
        key = number.to_bytes(32)
        poison.relayed(key, key, 0.0, committed=number % 3 != 1)
        if number % 2:
            poison.completed(key)
            poison.asked(key, 0, 0.0)
    assert len(poison._pulls) <= MAX_PULLS
    assert len(poison._bans) <= MAX_BANS
    assert len(poison._liars) <= MAX_LIARS


# Serving


@pytest.mark.parametrize(
    ("followers", "size", "start", "active", "expected"),
    [
        (0, 100, 0, True, Admission.SERVE),
        (0, 100, 99, True, Admission.SERVE),
        (0, 100, 100, True, Admission.BEHIND),
        (0, 0, 0, True, Admission.SERVE),
        (0, 0, 0, False, Admission.BEHIND),
        (0, 50, 100, True, Admission.BEHIND),
        (8, 100, 0, True, Admission.BUSY),
        (7, 100, 0, False, Admission.SERVE),
    ],
)
def test_who_is_served(followers: int, size: int, start: int, active: bool, expected: Admission) -> None:
    assert admit(S, followers=followers, size=size, start=start, active=active) is expected


# Waiting for small blobs


def test_a_small_blob_waits_for_a_commit_and_then_goes_upstream() -> None:
    growing = Source(Peer(b"a", "10.0.0.1", 5000), 0, 0, committed=False)
    done = Source(Peer(b"b", "10.0.0.2", 5000), 0, 0, committed=True)
    assert next_step(Lead(1000), 0.0, started=0.0, limit=0.3) == GoUpstream(leading=True)
    assert next_step(Follow((growing, done)), 0.0, started=0.0, limit=0.3) == TakeFrom((done,))
    assert next_step(Follow((growing,)), 0.0, started=0.0, limit=0.3) == AskAgain(0.02)
    assert next_step(Wait(500), 0.25, started=0.0, limit=0.5) == AskAgain(0.5)
    assert next_step(Keep(), 0.0, started=0.0, limit=0.3) == AskAgain(0.02)
    assert next_step(Follow((growing,)), 0.3, started=0.0, limit=0.3) == GoUpstream(leading=False)
