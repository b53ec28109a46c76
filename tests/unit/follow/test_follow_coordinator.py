"""The coordinator's table, told as stories: who leads, who follows whom, who moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peili.follow.coordinator import Coordinator
from peili.follow.message import (
    Follow,
    Join,
    Keep,
    Lead,
    Leave,
    Outcome,
    Peer,
    Purpose,
    Renew,
    Wait,
)
from peili.follow.settings import MAX_DIGESTS_OF_PEER, MAX_ENTRIES, FollowSettings

KEY = b"k" * 32
MB = 1_000_000
TOTAL = 1000 * MB
SETTINGS = FollowSettings()


def peer(number: int, zone: str = "") -> Peer:
    return Peer(b"peer-%05d" % number, f"10.0.{number >> 8}.{number & 255}", 5000, zone)


def join(offset: int = 0, key: bytes = KEY, **others: object) -> Join:
    return replace(Join(key, offset, TOTAL), **others)  # type: ignore[arg-type]


def resume(offset: int, *excluded: Peer) -> Join:
    return join(offset, purpose=Purpose.RESUME, excluded=tuple(each.id for each in excluded))


def renew(offset: int, source: Peer | None = None) -> Renew:
    return Renew(KEY, offset, TOTAL, source.id if source else b"")


def first(answer: object) -> Peer:
    assert isinstance(answer, Follow)
    return answer.sources[0].peer


A, B, C, D, E = (peer(number) for number in range(5))


def chain(now: float = 0.0) -> Coordinator:
    """A leads, B follows A, C follows B; all three grow at 100 MB/s until 2.0."""
    table = Coordinator(SETTINGS)
    assert isinstance(table.join(A, join(), now), Lead)
    assert first(table.join(B, join(), now)) == A
    assert first(table.join(C, join(), now)) == B
    for tick in range(1, 5):
        at = now + tick * 0.5
        assert table.renew(A, renew(tick * 50 * MB), at) == Keep(0, 500)
        assert table.renew(B, renew(tick * 50 * MB - MB, A), at) == Keep(1, 500)
        assert table.renew(C, renew(tick * 50 * MB - 2 * MB, B), at) == Keep(2, 500)
    return table


def test_who_waits_for_its_reader_is_asked_to_tell_so_rarely_and_is_known_as_long() -> None:
    table = chain()
    assert table.renew(C, replace(renew(199 * MB, B), full=True), 2.5) == Keep(2, 10_000)
    table.expire(17.4)
    assert table.statistics().entries == 1
    table.expire(17.6)
    assert table.statistics().entries == 0


def test_who_follows_a_node_that_has_all_of_it_tells_its_progress_half_as_often() -> None:
    table = Coordinator(SETTINGS)
    table.provided(KEY, [A], 0.0)
    assert first(table.join(B, join(), 0.0)) == A
    assert first(table.join(C, join(), 0.0)) in (A, B)
    assert table.renew(B, renew(50 * MB, A), 0.5) == Keep(1, 1000)
    assert table.renew(C, renew(50 * MB, B), 0.5) == Keep(2, 500)


def test_the_first_leads_and_the_next_ones_follow_each_other() -> None:
    table = Coordinator(SETTINGS)
    assert table.join(A, join(), 0.0) == Lead(3000, sole=True)
    answer = table.join(B, join(), 0.0)
    assert isinstance(answer, Follow)
    assert [(s.peer, s.offset, s.depth, s.committed) for s in answer.sources] == [(A, 0, 0, False)]
    assert answer.depth == 1
    # A large layer: each uplink is used once before anybody gets a second child.
    assert first(table.join(C, join(), 0.0)) == B
    assert table.statistics().deepest == 2


def test_a_small_layer_makes_a_flat_tree_within_the_fan_out() -> None:
    table = Coordinator(SETTINGS)
    small = replace(join(), total=10_000)
    assert isinstance(table.join(A, small, 0.0), Lead)
    sources = [first(table.join(peer(10 + n), small, 0.0)) for n in range(5)]
    assert sources == [A, A, A, A, peer(10)]


def test_a_lead_is_found_again_and_not_granted_twice() -> None:
    table = Coordinator(SETTINGS)
    assert table.join(A, join(), 0.0) == Lead(3000, sole=True)
    assert table.join(A, join(), 0.4) == Lead(2600, sole=True)
    assert table.statistics().leads_granted == 1


@pytest.mark.parametrize(("queued", "patience"), [(False, SETTINGS.lapse), (True, SETTINGS.queued_patience)])
def test_a_lead_that_queues_behind_its_own_node_is_waited_for_longer(queued: bool, patience: float) -> None:
    table = Coordinator(SETTINGS)
    assert isinstance(table.join(A, join(), 0.0), Lead)
    assert first(table.join(B, join(), 0.0)) == A
    assert first(table.join(C, join(), 0.0)) == B
    for tick in range(1, 60):
        now = tick * 0.5
        table.renew(A, replace(renew(0), queued=queued), now)
        answer = table.renew(B, renew(0, A), now)
        if isinstance(answer, Lead):
            break
        assert answer in (Keep(1, 500, queued), Keep(1, 100))
        if now > 1.0:
            assert table.renew(C, renew(0, B), now) == Keep(2, 500, queued), "whoever is next to the lead acts"
    assert patience <= now <= patience + 0.5


@pytest.mark.parametrize(("outrun", "patience"), [(False, SETTINGS.stall), (True, SETTINGS.outrun)])
def test_a_lead_that_is_outrun_by_others_of_its_node_is_waited_for_longer(outrun: bool, patience: float) -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    table.join(B, join(), 0.0)
    for tick in range(1, 60):
        now = tick * 0.5
        table.renew(A, replace(renew(MB), queued=outrun and now > 1.0), now)
        answer = table.renew(B, renew(MB, A), now)
        if isinstance(answer, Lead):
            break
        assert answer in (Keep(1, 500, outrun and now > 1.0), Keep(1, 100))
    assert patience <= now - 0.5 <= patience + 0.5


@pytest.mark.parametrize(
    ("outrun", "ahead", "waits"), [(True, 2 * MB, True), (False, 2 * MB, False), (True, 20 * MB, False)]
)
def test_who_got_a_little_more_than_an_outrun_lead_has_told_waits_for_it(
    outrun: bool, ahead: int, waits: bool
) -> None:
    """B was told to move just when bytes came, was refused by C, which holds no more, and has left its source."""
    table = Coordinator(SETTINGS)
    for each in (A, B, C):
        table.join(each, join(), 0.0)
    for tick in range(1, 9):
        now = tick * 0.5
        table.renew(A, replace(renew(MB if tick > 4 else 0), queued=outrun), now)
        table.renew(B, renew(MB if tick > 4 else 0, A), now)
        table.renew(C, renew(MB if tick > 4 else 0, A), now)
    answer = table.join(B, replace(resume(ahead), busy=(C.id,)), 4.2)
    assert isinstance(answer, Wait if waits else Lead)


def test_a_lead_that_has_begun_queues_no_longer() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    table.join(B, join(), 0.0)
    table.renew(A, replace(renew(0), queued=True), 5.0)
    table.renew(A, renew(MB), 5.5)
    assert table.renew(B, renew(MB, A), 5.6) == Keep(1, 500)


def test_a_lead_that_nothing_is_heard_of_lapses_before_its_time() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    assert first(table.join(B, join(), 0.5)) == A
    # A did not even say that it still has no byte: B leads; C follows B.
    assert isinstance(table.join(B, resume(0), 1.55), Lead)
    assert first(table.join(C, join(), 1.6)) == B


def test_a_lead_that_says_that_it_is_queued_is_waited_for_as_long_as_by_any_follower() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    for tick in range(1, 9):
        table.renew(A, renew(0), tick * 0.5)
    assert first(table.join(B, join(), 4.1)) == A
    for tick in range(9, 14):
        table.renew(A, renew(0), tick * 0.5)
        assert table.renew(B, renew(0, A), tick * 0.5 + 0.1) in (Keep(1, 100), Keep(1, 500))
    table.renew(A, renew(0), 7.0)
    assert isinstance(table.renew(B, renew(0, A), 7.2), Lead), "it has waited for three seconds"


def test_a_slow_upstream_is_no_stall() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    for tick in range(16):  # it grows at 2 and at 4 seconds
        table.renew(A, renew(min(tick // 4, 2) * MB), tick * 0.5)
    assert first(table.join(B, resume(MB), 7.9)) == A
    table.renew(A, renew(2 * MB), 8.0)
    assert isinstance(table.join(C, resume(MB), 8.1), Lead), "twice its usual pause is over"


def test_the_same_zone_comes_first() -> None:
    table = Coordinator(SETTINGS)
    table.join(peer(1, "north"), join(zone="north"), 0.0)
    table.join(peer(2, "south"), join(zone="south"), 0.0)
    assert first(table.join(peer(3, "north"), join(zone="north"), 0.0)) == peer(1, "north")
    assert first(table.join(peer(4, "south"), join(zone="south"), 0.0)) == peer(2, "south")


def test_committed_nodes_are_sources_of_the_same_tree() -> None:
    table = Coordinator(SETTINGS)
    table.provided(KEY, [A, B], 0.0)
    sources = {first(table.join(peer(10 + n), join(), 0.0)) for n in range(2)}
    assert sources == {A, B}
    table.leave(C, Leave(KEY, Outcome.COMMITTED), 0.0)
    assert first(table.join(peer(12), join(), 0.0)) == C, "a commit counts though its node never joined here"


def test_a_source_that_vanished_is_not_named_again() -> None:
    table = chain()
    table.leave(B, Leave(KEY, Outcome.VANISHED), 2.0)
    assert first(table.join(C, resume(190 * MB), 2.0)) == A


def test_nobody_is_told_to_follow_who_follows_it_or_holds_less() -> None:
    table = chain()
    # A lost its upstream. B and C hold less, and follow it: A leads again.
    assert isinstance(table.join(A, resume(202 * MB), 2.1), Lead)
    # B lost A: C follows B, and holds less; there is only A, which has just begun.
    assert first(table.join(B, resume(199 * MB), 2.1)) == A
    assert isinstance(table.join(B, resume(199 * MB, A), 2.1), Wait)
    for tick in range(6):
        table.renew(A, renew(203 * MB + tick), 2.6 + tick * 0.5)
    # A grows: another one may soon be ahead of B. It is not put off for ever.
    assert [table.join(B, resume(199 * MB, A), 5.2 + n * 0.01) for n in range(5)] == [Wait(100)] * 5
    assert isinstance(table.join(B, resume(199 * MB, A), 5.26), Lead)


def test_the_follower_of_a_frozen_node_moves_and_the_one_below_stays() -> None:
    table = chain()
    # B froze at 2.0. C, without a byte, asks at 2.4: once more a moment later, then it moves.
    table.renew(A, renew(250 * MB), 2.5)
    assert table.renew(C, renew(198 * MB, B), 2.41) == Keep(2, 100)
    assert first(table.renew(C, renew(198 * MB, B), 2.52)) == A


def test_a_live_source_that_waits_itself_is_kept() -> None:
    table = chain()
    table.renew(A, renew(250 * MB), 2.5)
    table.renew(B, renew(199 * MB, A), 2.5)
    assert isinstance(table.renew(C, renew(198 * MB, B), 2.52), Keep)
    # B is next to the fault: A grows, and B gets nothing of it, though A was heard of.
    assert isinstance(table.renew(B, renew(199 * MB, A), 2.6), Keep)


def test_when_the_lead_dies_one_follower_takes_over_and_the_others_stay() -> None:
    table = chain()
    assert isinstance(table.renew(B, renew(199 * MB, A), 2.41), Keep)
    assert isinstance(table.renew(B, renew(199 * MB, A), 4.2), Lead)
    assert isinstance(table.renew(C, renew(199 * MB, B), 4.25), Keep)
    assert table.statistics().leads_granted == 2


def test_at_most_a_few_leads_however_many_wait() -> None:
    table = Coordinator(SETTINGS)
    everybody = [peer(number) for number in range(20)]
    table.join(everybody[0], join(), 0.0)
    table.renew(everybody[0], renew(1), 0.1)
    answers = [table.join(each, resume(500 * MB, everybody[0]), 0.7) for each in everybody[1:]]
    leads = [answer for answer in answers if isinstance(answer, Lead)]
    assert len(leads) <= SETTINGS.max_leads
    assert all(isinstance(answer, Wait | Lead | Follow) for answer in answers)


def test_who_excludes_every_lead_gets_one_only_while_there_are_few() -> None:
    table = Coordinator(SETTINGS)
    table.provided(KEY, [], 0.0)  # so that the table is not young
    leads: list[Peer] = []
    for number in range(10):
        at = 3.0 + number * 0.01
        for _ in range(5 if 0 < number < SETTINGS.max_leads else 0):
            assert table.join(peer(number), resume(500 * MB, *leads), at) == Wait(100), "one of them grows"
        answer = table.join(peer(number), resume(500 * MB, *leads), at)
        if isinstance(answer, Lead):
            leads.append(peer(number))
            table.renew(peer(number), renew(500 * MB + 1), at + 0.005)
        else:
            assert isinstance(answer, Wait)
    assert len(leads) == SETTINGS.max_leads


def test_who_finds_the_lead_busy_waits_for_it_and_one_whom_it_failed_leads() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    table.renew(A, renew(1), 0.1)
    assert isinstance(table.join(B, replace(join(), busy=(A.id,)), 0.2), Wait)
    answers = [table.join(C, replace(join(), excluded=(A.id,)), 0.2) for _ in range(6)]
    assert answers[:-1] == [Wait(100)] * 5, "it has just grown"
    assert isinstance(answers[-1], Lead)


def test_a_source_that_is_not_known_has_no_depth() -> None:
    table = Coordinator(SETTINGS)
    assert table.renew(B, renew(MB, A), 0.0) == Keep(0, 500)


def test_at_the_start_only_an_earlier_one_is_followed() -> None:
    table = Coordinator(SETTINGS)
    for each in (A, B, C):
        table.join(each, replace(join(), total=10_000), 0.0)
    again = replace(resume(0, A), total=10_000)
    assert not isinstance(table.join(B, again, 0.1), Follow), "C joined later"
    table.join(D, replace(join(), total=10_000), 0.1)
    assert first(table.join(D, again, 0.1)) in {B, C}


def test_a_follower_goes_around_a_slow_source() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    table.join(B, join(), 0.0)
    table.join(C, join(), 0.0)
    answer: object = None
    for tick in range(1, 10):
        at = tick * 0.5
        table.renew(A, renew(tick * 50 * MB), at)
        assert isinstance(table.renew(B, renew(tick * 5 * MB, A), at), Keep), "B's own link is slow: nobody helps"
        answer = table.renew(C, renew(tick * 5 * MB - MB, B), at)
        if isinstance(answer, Follow):
            break
    assert first(answer) == A


def test_a_new_coordinator_learns_the_tree_from_renewals() -> None:
    table = Coordinator(SETTINGS)
    # A resumption that comes before them waits for them.
    assert isinstance(table.join(C, resume(190 * MB), 0.0), Wait)
    table.renew(A, renew(200 * MB), 0.1)
    table.renew(B, renew(199 * MB, A), 0.2)
    assert first(table.join(C, resume(190 * MB), 0.3)) in {A, B}
    assert isinstance(table.join(D, join(), 0.4), Follow)


def test_a_burdened_node_gives_others_a_moment() -> None:
    table = Coordinator(SETTINGS)
    table.join(B, replace(join(), key=bytes(32)), 0.0)  # others are pulling, too
    answer = table.join(A, join(burden=2), 0.0)
    assert answer == Wait(10)
    assert isinstance(table.join(B, join(), 0.005), Lead)
    assert first(table.join(A, join(burden=2), 0.010)) == B


def test_a_burdened_node_leads_where_nobody_else_comes() -> None:
    table = Coordinator(SETTINGS)
    table.join(B, replace(join(), key=bytes(32)), 0.0)
    table.join(A, join(burden=2), 0.0)
    assert isinstance(table.join(A, join(burden=2), 0.011), Lead)


def test_a_burdened_node_that_pulls_alone_waits_for_nobody() -> None:
    table = Coordinator(SETTINGS)
    table.join(B, replace(join(), key=bytes(32)), 0.0)
    table.join(A, replace(join(), key=bytes(32)), 1.0)
    assert isinstance(table.join(A, join(burden=2), 1.1), Lead)


def test_entries_expire_and_a_goodbye_takes_them_all() -> None:
    table = chain()
    table.expire(5.0)
    assert table.statistics().entries == 3
    table.expire(20.0)
    assert table.statistics().entries == 0
    table.expire(40.0)
    assert table.statistics().digests == 0
    table = chain()
    table.forget_peer(B.id)
    assert table.statistics().entries == 2
    assert first(table.join(C, resume(190 * MB), 2.0)) == A


def test_the_table_is_bounded_per_peer_and_per_digest() -> None:
    table = Coordinator(SETTINGS)
    for number in range(MAX_DIGESTS_OF_PEER + 50):
        table.join(A, join(key=number.to_bytes(32)), 0.0)
    assert table.statistics().entries == MAX_DIGESTS_OF_PEER
    table = Coordinator(SETTINGS)
    for number in range(MAX_ENTRIES + 50):
        answer = table.join(peer(number), join(), 0.0)
    assert table.statistics().entries == MAX_ENTRIES
    assert isinstance(answer, Follow), "who is not kept is served all the same"


def test_a_large_herd_is_answered_fast_enough_to_matter() -> None:
    """Not a measure of time: no first join looks at more than a bounded number of sources."""
    table = Coordinator(SETTINGS)
    for number in range(500):
        table.join(peer(number), join(), 0.0)
    swarm = table._swarms.get(KEY)
    assert swarm is not None
    assert len(list(swarm.likely_sources())) <= 16 + 2 * 8 + SETTINGS.max_leads


def test_a_lead_that_has_just_begun_is_not_held_to_what_it_lacked_before() -> None:
    """A froze. B, which had nothing more for C, leads; C, which therefore gave B up, waits for its bytes."""
    table = chain()
    assert isinstance(table.join(B, resume(199 * MB, A), 4.5), Lead)
    assert isinstance(table.join(C, resume(198 * MB, B), 4.6), Wait)
    table.renew(B, renew(199 * MB), 5.0)
    table.renew(B, renew(199 * MB), 6.0)
    table.renew(B, renew(199 * MB), 7.0)
    assert isinstance(table.join(C, resume(198 * MB, B), 7.6), Lead), "but it does not begin to grow"


def test_who_says_that_it_does_not_grow_is_not_ahead_of_what_it_says() -> None:
    """A froze, and B and C have the same: neither is named to the other, and one leads before any has given up."""
    table = chain()
    table.renew(B, renew(199 * MB, A), 3.0)
    table.renew(C, renew(199 * MB, B), 3.0)
    assert isinstance(table.renew(B, renew(199 * MB, A), 3.4), Lead)
    assert isinstance(table.renew(C, renew(199 * MB, B), 3.4), Keep)
    assert isinstance(table.renew(C, renew(199 * MB, B), 3.5), Keep)


def test_a_source_that_has_just_begun_to_lead_is_not_taken_for_a_slow_one() -> None:
    """A gets no more from upstream, and is not given up yet; B, with nothing more for C, leads: C stays with B."""
    table = chain()
    for tick in range(5, 8):
        table.renew(A, renew(200 * MB + MB), tick * 0.5)
        table.renew(B, renew(199 * MB, A), tick * 0.5)
        table.renew(C, renew(198 * MB, B), tick * 0.5)
    assert isinstance(table.join(B, resume(199 * MB, A), 4.2), Lead)
    table.renew(B, renew(199 * MB), 4.21)
    assert isinstance(table.renew(C, renew(198 * MB, B), 4.22), Keep)


def test_a_circle_that_two_coordinators_made_is_opened() -> None:
    """One told B to follow C, the other one C to follow B, and A is another source."""
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    for tick in range(6):
        at = tick * 0.1
        table.renew(A, renew((tick + 1) * MB), at)
        answer = table.renew(B, renew(0, C), at)
        assert isinstance(table.renew(C, renew(0, B), at), Keep), "one of them is enough"
    assert first(answer) == A


def test_a_circle_without_any_lead_gets_one() -> None:
    table = Coordinator(SETTINGS)
    table.provided(KEY, [D], -3.0)  # a copy that B and C cannot have, and a table that is not young
    excluded = (D.id,)
    answers = []
    for tick in range(6):
        at = tick * 0.1
        answers.append(table.renew(B, replace(renew(0, C), excluded=excluded), at))
        answers.append(table.renew(C, replace(renew(0, B), excluded=excluded), at))
    assert sum(isinstance(answer, Lead) for answer in answers) == 1


def test_a_lead_that_failed_somebody_and_does_not_grow_is_no_reason_to_wait() -> None:
    table = Coordinator(SETTINGS)
    table.join(A, join(), 0.0)
    table.renew(A, renew(1), 0.1)
    table.renew(A, renew(1), 0.6)
    assert isinstance(table.join(C, replace(join(), excluded=(A.id,)), 0.7), Lead)
