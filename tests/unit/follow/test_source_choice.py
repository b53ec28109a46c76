"""One pull through the peers, step by step."""

from __future__ import annotations

from peili.follow.crawl import MAX_SLOW, SLOW_RATE, SLOW_WINDOW
from peili.follow.failed_sources import SourceFailure
from peili.follow.message import Follow, Keep, Lead, Peer, Purpose, Source, Wait
from peili.follow.settings import FollowSettings
from peili.follow.source_choice import (
    HARD_LIMIT,
    MAX_TRIES,
    MAX_WITHOUT_GROWTH,
    VERIFIED_LIMIT,
    SourceChoice,
)
from peili.follow.steps import GoUpstream, JoinNow, RenewNow, Stay, Step, Take

KEY = b"k" * 32
S = FollowSettings()


def source(name: bytes, *, offset: int = 1000, depth: int = 0, committed: bool = False) -> Source:
    return Source(Peer(name, "10.0.0.1", 5000), offset, depth, committed)


A, B = source(b"a"), source(b"b")


def following(*sources: Source, **others: object) -> SourceChoice:
    choice = SourceChoice(S, KEY, 0.0, total=10**9, **others)  # type: ignore[arg-type]
    assert isinstance(choice.next_step(0.0), JoinNow)
    choice.answered(Follow(sources, 1), 0.0)
    return choice


def relaying(*sources: Source) -> SourceChoice:
    choice = following(*sources)
    assert choice.next_step(0.0) == Take(sources[0])
    choice.taken(sources[0], 0.0)
    return choice


def test_a_lead_goes_upstream_at_once() -> None:
    choice = SourceChoice(S, KEY, 0.0)
    step = choice.next_step(0.0)
    assert isinstance(step, JoinNow)
    assert step.join.purpose is Purpose.FIRST
    assert isinstance(choice.next_step(0.0), Stay)
    choice.answered(Lead(1000), 0.0)
    assert choice.next_step(0.0) == GoUpstream(leading=True, reason="lead")
    choice.answered(Lead(1000, unprovided=True), 0.0)
    assert choice.next_step(0.0) == GoUpstream(leading=True, reason="lead", unprovided=True)


def test_a_source_without_room_is_followed_by_the_next_and_then_by_a_new_join_without_it() -> None:
    choice = following(A, B)
    assert choice.next_step(0.0) == Take(A)
    choice.failed(b"a", SourceFailure.BUSY, 0.0)
    assert choice.next_step(0.0) == Take(B)
    choice.failed(b"b", SourceFailure.BROKEN, 0.0)
    step = choice.next_step(0.0)
    assert isinstance(step, JoinNow)
    assert (step.join.busy, step.join.excluded) == ((b"a",), (b"b",))
    assert step.join.purpose is Purpose.FIRST
    choice.answered(Wait(1500), 0.0)
    later = choice.next_step(1.5)
    assert isinstance(later, JoinNow)
    assert (later.join.busy, later.join.excluded) == ((), (b"b",)), "who had no room may have some later"


def test_while_bytes_flow_it_renews_at_the_interval_that_it_was_told() -> None:
    choice = relaying(A)
    choice.grew(100, 0.5)
    step = choice.next_step(0.5)
    assert isinstance(step, RenewNow)
    assert (step.renew.offset, step.renew.source) == (100, b"a")
    choice.answered(Keep(1, 2000), 0.5)
    choice.grew(200, 1.0)
    choice.grew(500, 2.29)
    assert choice.next_step(2.29) == Stay(2.5)
    choice.grew(600, 2.31)
    assert isinstance(choice.next_step(2.31), RenewNow), "a look shortly before it is early enough"
    choice.answered(Keep(1, 500), 2.31)
    choice.grew(700, 2.8)
    assert isinstance(choice.next_step(2.8), Stay), "soon is meant to be exact"


def test_a_source_that_stops_is_not_suspected_sooner_than_after_the_time_for_that() -> None:
    choice = relaying(A)
    choice.grew(100, 0.5)
    assert isinstance(choice.next_step(0.5), RenewNow)
    choice.answered(Keep(1, 2000), 0.5)
    choice.grew(200, 1.0)
    assert choice.next_step(1.39) == Stay(1.4)
    assert isinstance(choice.next_step(1.4), RenewNow)


def test_a_source_that_ends_is_left_and_the_offset_kept() -> None:
    choice = relaying(A)
    choice.grew(100, 0.1)
    choice.failed(b"a", SourceFailure.ENDED, 0.1)
    step = choice.next_step(0.1)
    assert isinstance(step, JoinNow)
    assert (step.join.offset, step.join.purpose, step.join.excluded) == (100, Purpose.RESUME, (b"a",))


def test_a_silent_source_makes_it_ask_soon_and_leave_at_the_stall_limit() -> None:
    choice = relaying(A)
    choice.grew(100, 0.1)
    assert isinstance(choice.next_step(0.5), RenewNow)
    choice.answered(Keep(1, 100), 0.5)
    assert isinstance(choice.next_step(0.55), Stay)
    assert isinstance(choice.next_step(0.6), RenewNow)
    choice.answered(Keep(1, 2000), 0.6)
    assert isinstance(choice.next_step(1.1), RenewNow), "while nothing comes, as often as a lead"
    choice.answered(Keep(1, 2000), 1.1)
    step = choice.next_step(0.1 + S.stall_limit(1))
    assert isinstance(step, JoinNow)
    assert step.join.excluded == (b"a",)


def test_below_a_lead_that_is_outrun_it_has_more_patience() -> None:
    choice = relaying(A)
    choice.grew(100, 0.1)
    choice.next_step(0.6)
    choice.answered(Keep(1, 500, queued=True), 0.6)
    assert isinstance(choice.next_step(0.1 + S.stall_limit(1)), RenewNow)
    choice.answered(Keep(1, 500, queued=True), 0.1 + S.stall_limit(1))
    choice.next_step(0.1 + S.outrun - 0.01)
    assert choice.source is not None
    choice.next_step(0.1 + S.outrun)
    assert choice.source is None


def test_a_source_that_has_bytes_and_sends_none_is_not_excused_by_an_outrun_lead() -> None:
    choice = relaying(A)
    assert A.offset > 0
    for now in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5):
        choice.next_step(now)
        choice.answered(Keep(1, 500, queued=True), now)
    choice.next_step(S.outrun)
    assert choice.source is None


def test_the_next_source_begins_with_the_usual_patience() -> None:
    choice = relaying(A)
    choice.next_step(0.5)
    choice.answered(Keep(1, 500, queued=True), 0.5)
    choice.next_step(1.0)
    choice.answered(Follow((B,), 1), 1.0)
    assert choice.next_step(1.0) == Take(B)
    choice.taken(B, 1.0)
    choice.next_step(1.0 + S.stall_limit(1))
    assert choice.source is None


def test_what_was_outrun_and_grows_has_the_usual_patience_again() -> None:
    choice = relaying(A)
    choice.grew(100, 0.1)
    choice.next_step(0.6)
    choice.answered(Keep(1, 500, queued=True), 0.6)
    choice.grew(200, 0.7)
    choice.next_step(0.7 + S.stall_limit(1))
    assert choice.source is None


def test_the_deeper_the_longer_the_stall_limit_up_to_a_bound() -> None:
    assert [S.first_growth_limit(depth) for depth in (1, 2, 1000)] == [3.5, 4.0, 6.0]
    assert [S.stall_limit(depth) for depth in (0, 1, 2, 3, 1000)] == [2.0, 2.0, 2.5, 3.0, 6.0]
    assert [S.stall_limit(depth, outrun=True) for depth in (0, 1, 2, 3, 1000)] == [4.0, 4.0, 4.5, 5.0, 6.0]
    patient = FollowSettings(stall=10.0, longest_stall=14.0)
    assert patient.stall_limit(1, outrun=True) == patient.stall_limit(1) == 10.0


def test_a_move_keeps_the_present_source_until_the_new_one_answers() -> None:
    choice = relaying(A)
    choice.grew(100, 0.4)
    assert isinstance(choice.next_step(0.5), RenewNow)
    choice.answered(Follow((A, B), 3), 0.5)
    assert choice.next_step(0.5) == Take(B)
    assert choice.source == A
    choice.failed(b"b", SourceFailure.BEHIND, 0.5)
    assert choice.source == A
    assert isinstance(choice.next_step(0.5), Stay)


def test_told_to_lead_in_the_middle_it_goes_upstream() -> None:
    choice = relaying(A)
    choice.next_step(0.5)
    choice.answered(Lead(1000), 0.5)
    assert choice.next_step(0.5) == GoUpstream(leading=True, reason="lead")


def test_silent_coordinators_are_waited_for_briefly_at_the_start_and_longer_in_the_middle() -> None:
    choice = SourceChoice(S, KEY, 0.0)
    now = 0.0
    while not isinstance(choice.next_step(now), GoUpstream):
        choice.answered(None, now)
        now += 0.1
    assert now < 0.5
    choice = relaying(A)
    choice.grew(100, 0.1)
    choice.failed(b"a", SourceFailure.ENDED, 0.1)
    now = 0.1
    while not isinstance(choice.next_step(now), GoUpstream):
        choice.answered(None, now)
        now += 0.1
    assert 2.0 <= now - 0.1 < 2.5


def test_nothing_waits_for_ever_without_a_byte() -> None:
    choice = SourceChoice(S, KEY, 0.0)
    now = 0.0
    while not isinstance(step := choice.next_step(now), GoUpstream):
        if isinstance(step, JoinNow):
            choice.answered(Wait(250), now)
        now += 0.05
    assert step.reason == "no growth"
    assert HARD_LIMIT <= now < HARD_LIMIT + 0.1, "while a coordinator answers, it says who leads"


def test_without_an_answer_lately_nothing_waits_long() -> None:
    choice = SourceChoice(S, KEY, 0.0)
    assert isinstance(choice.next_step(0.0), JoinNow)
    choice.answered(Wait(60_000), 0.0)
    step = choice.next_step(0.1)
    assert step == Stay(MAX_WITHOUT_GROWTH + S.stall_limit(1))
    assert choice.next_step(step.until) == GoUpstream(leading=False, reason="no growth")


def test_who_ends_may_have_been_started_anew_once() -> None:
    choice = relaying(A)
    choice.grew(100, 0.1)
    choice.failed(b"a", SourceFailure.ENDED, 0.1)
    assert isinstance(choice.next_step(0.1), JoinNow)
    choice.answered(Follow((A,), 1), 1.2)
    assert choice.next_step(1.2) == Take(A)
    choice.taken(A, 1.2)
    choice.failed(b"a", SourceFailure.ENDED, 1.3)
    step = choice.next_step(30.0)
    assert not isinstance(step, Take)
    choice = relaying(A)
    for at in (0.1, 1.2):
        choice.failed(b"a", SourceFailure.ENDED, at)
    step = choice.next_step(5.0)
    assert isinstance(step, JoinNow)
    assert step.join.excluded == (b"a",)


def test_who_waits_for_a_verified_source_waits_while_one_comes_nearer() -> None:
    def until_it_goes(grows_until: float) -> float:
        choice, now = SourceChoice(S, KEY, 0.0, verified_only=True), 0.0
        while not isinstance(step := choice.next_step(now), GoUpstream):
            if isinstance(step, JoinNow):
                offset = int(min(now, grows_until) * 1000) + 1
                choice.answered(Follow((source(b"a", offset=offset),), 1), now)
            now += 0.05
        return now

    assert HARD_LIMIT <= until_it_goes(0.0) < HARD_LIMIT + 0.3
    assert 30.0 + HARD_LIMIT <= until_it_goes(30.3) < 31.0 + HARD_LIMIT
    assert until_it_goes(1000.0) < VERIFIED_LIMIT + HARD_LIMIT + 0.3


def test_it_asks_no_banned_source_and_after_a_lie_only_committed_ones() -> None:
    committed = source(b"c", committed=True)
    choice = following(A, B, committed, banned=frozenset({b"a"}), verified_only=True)
    assert choice.next_step(0.0) == Take(committed)


def test_it_asks_no_banned_source_and_says_so_when_it_joins() -> None:
    choice = following(A, B, banned=frozenset({b"a"}))
    assert choice.next_step(0.0) == Take(B)
    choice.failed(b"b", SourceFailure.BROKEN, 0.0)
    step = choice.next_step(0.2)
    assert isinstance(step, JoinNow)
    assert set(step.join.excluded) == {b"a", b"b"}


def test_a_source_that_begins_to_lead_gets_its_time_once() -> None:
    choice = following(A)
    choice.next_step(0.0)
    choice.taken(source(b"a", depth=2), 0.0)
    choice.answered(Keep(1, 500), 1.8)
    assert isinstance(choice.next_step(1.8 + S.stall_limit(1) - 0.01), RenewNow)
    choice.answered(Keep(1, 500), 3.79)
    assert isinstance(choice.next_step(1.8 + S.stall_limit(1)), JoinNow), "it did not use it"


def test_a_source_that_no_coordinator_knows_gets_the_shortest_time() -> None:
    choice = following(A)
    choice.next_step(0.0)
    choice.taken(source(b"a", depth=7), 0.0)
    choice.answered(Keep(0, 500), 1.0)
    assert isinstance(choice.next_step(S.stall_limit(1)), JoinNow)


def test_a_source_that_stalled_may_be_followed_again_later() -> None:
    choice = relaying(A)
    stalled = S.stall_limit(1)
    choice.next_step(stalled)
    choice.answered(Follow((A,), 1), stalled)
    assert not isinstance(choice.next_step(stalled), Take)
    choice.grew(100, stalled + 4.0)
    choice.answered(Follow((A,), 1), stalled + 5.0)
    assert choice.next_step(stalled + 5.0) == Take(A)


def test_a_lead_without_bytes_gets_the_time_for_its_first_ones() -> None:
    empty = Source(A.peer, 0, 0, committed=False)
    choice = following(empty)
    choice.next_step(0.0)
    choice.taken(empty, 0.0)
    choice.answered(Keep(1, 500), 0.4)
    assert isinstance(choice.next_step(S.first_growth_limit(1) - 0.01), RenewNow)
    choice.answered(Keep(1, 500), S.first_growth_limit(1) - 0.01)
    assert isinstance(choice.next_step(S.first_growth_limit(1)), JoinNow)


def test_a_committed_source_without_bytes_stalls_at_once() -> None:
    committed = source(b"c", committed=True)
    choice = following(committed)
    choice.next_step(0.0)
    choice.taken(committed, 0.0)
    choice.answered(Keep(1, 500), 0.4)
    assert isinstance(choice.next_step(S.stall_limit(1)), JoinNow)


def test_who_gets_bytes_rarely_waits_longer_for_the_next() -> None:
    choice = relaying(A)
    for tick in range(1, 4):
        choice.grew(100 * tick, tick * 1.5)
    choice.next_step(4.5)
    choice.answered(Keep(1, 500), 4.6)
    assert isinstance(choice.next_step(4.5 + S.stall_limit(1) + 0.5), RenewNow)
    choice.answered(Keep(1, 500), 7.0)
    assert isinstance(choice.next_step(4.5 + 3.0), JoinNow), "twice its usual pause"


def test_refusals_are_no_reason_to_give_up() -> None:
    """After a fault everybody is as far as everybody else for a moment, and says so."""
    choice = relaying(A)
    choice.grew(100, 0.1)
    choice.failed(b"a", SourceFailure.ENDED, 0.1)
    for number in range(2 * MAX_TRIES):
        choice.failed(b"%d" % number, SourceFailure.BEHIND, 0.2)
    assert isinstance(choice.next_step(0.2), JoinNow)
    for number in range(MAX_TRIES):
        choice.failed(b"%d" % number, SourceFailure.BROKEN, 0.3)
    assert choice.next_step(0.3) == GoUpstream(leading=False, reason="too many tries")


def knowing(*sources: Source) -> SourceChoice:
    return SourceChoice(S, KEY, 0.0, total=10**9, known=sources)


DONE = source(b"d", committed=True)


def test_a_known_holder_is_asked_before_the_coordinators_and_they_hear_of_it_soon() -> None:
    choice = knowing(DONE)
    assert choice.next_step(0.0) == Take(DONE, unnamed=True)
    choice.taken(DONE, 0.001, unnamed=True)
    assert isinstance(choice.next_step(0.001), Stay), "the first bytes come first"
    step = choice.next_step(0.022)
    assert isinstance(step, RenewNow)
    assert step.renew.source == b"d"


def test_a_known_holder_that_serves_others_leaves_it_to_the_coordinators_who_may_name_it() -> None:
    choice = knowing(DONE, A)
    assert choice.next_step(0.0) == Take(DONE, unnamed=True)
    choice.declined()
    assert isinstance(choice.next_step(0.0), JoinNow)
    choice.answered(Follow((DONE,), 1), 0.0)
    assert choice.next_step(0.0) == Take(DONE)


def test_a_known_holder_that_has_it_no_longer_is_followed_by_the_next() -> None:
    choice = knowing(DONE, A)
    assert choice.next_step(0.0) == Take(DONE, unnamed=True)
    choice.failed(b"d", SourceFailure.BROKEN, 0.0)
    assert choice.next_step(0.0) == Take(A, unnamed=True)
    choice.failed(b"a", SourceFailure.BROKEN, 0.0)
    step = choice.next_step(0.0)
    assert isinstance(step, JoinNow)
    assert set(step.join.excluded) == {b"a", b"d"}


def test_the_coordinators_are_asked_beside_a_known_holder_that_is_slow_and_only_once() -> None:
    choice = knowing(DONE)
    choice.next_step(0.0)
    assert choice.join_beside(0.05) is not None
    assert choice.join_beside(0.06) is None
    choice.answered(Follow((A,), 1), 0.06)
    assert choice.alternative(0.06) == A


def test_a_holder_that_answers_after_all_is_taken_though_we_were_told_to_lead() -> None:
    choice = knowing(DONE)
    choice.next_step(0.0)
    assert choice.join_beside(0.05) is not None
    choice.answered(Lead(1000), 0.06)
    assert choice.leaves
    choice.taken(DONE, 0.07, unnamed=True)
    assert isinstance(choice.next_step(0.07), RenewNow)


def test_what_the_coordinators_say_too_late_moves_nobody() -> None:
    choice = knowing(DONE)
    choice.next_step(0.0)
    assert choice.join_beside(0.05) is not None
    choice.taken(DONE, 0.06, unnamed=True)
    choice.answered(Follow((A,), 1), 0.07)
    step = choice.next_step(0.07)
    assert isinstance(step, RenewNow)
    assert choice.source == DONE


def test_who_waits_for_its_reader_tells_so_rarely_and_soon_when_it_reads_again() -> None:
    choice = relaying(A)
    choice.excused(1.0)
    step = choice.next_step(1.0)
    assert isinstance(step, RenewNow)
    assert step.renew.full
    choice.answered(Keep(1, 10_000), 1.0)
    for second in range(2, 11):
        choice.excused(float(second))
        assert isinstance(choice.next_step(float(second)), Stay), second
    choice.excused(11.0)
    assert isinstance(choice.next_step(11.0), RenewNow)
    choice.answered(Keep(1, 10_000), 11.0)
    for tick in range(20):
        choice.grew(100 + tick, 12.0 + tick / 10)
        assert isinstance(choice.next_step(12.0 + tick / 10), Stay)
    choice.grew(200, 14.0)
    step = choice.next_step(14.0)
    assert isinstance(step, RenewNow)
    assert not step.renew.full


def crawl(choice: SourceChoice, start: float, rate: float, seconds: float) -> tuple[float, Step]:
    """Receive at this rate, and answer what it asks; return the last step, and when: the source may be left."""
    now, offset, step = start, choice._offset, choice.next_step(start)
    while now < start + seconds and choice.source is not None:
        now += 0.5
        choice.grew(offset + int((now - start) * rate), now)
        step = choice.next_step(now)
        if isinstance(step, RenewNow):
            choice.answered(Keep(1, 500), now)
    return now, step


def test_a_committed_source_that_crawls_is_left_for_another() -> None:
    choice = relaying(source(b"a", committed=True))
    now, step = crawl(choice, 0.0, SLOW_RATE / 2, 60)
    assert now <= SLOW_WINDOW + 1
    assert isinstance(step, JoinNow)
    assert (step.join.purpose, step.join.excluded) == (Purpose.RESUME, (b"a",))
    choice.answered(Lead(1000), 6.0)
    assert choice.next_step(6.0) == GoUpstream(leading=True, reason="lead")


def test_a_source_that_crawls_after_a_burst_is_left_a_window_later_however_little_is_left() -> None:
    choice = relaying(source(b"a", committed=True))
    choice.know_total(6_000_000)
    choice.grew(5_900_000, 0.2)
    choice.grew(5_999_000, 0.5)
    assert isinstance(choice.next_step(0.5), RenewNow)
    choice.answered(Keep(1, 500), 0.5)
    now, step = crawl(choice, 0.5, 4, 60)
    assert isinstance(step, JoinNow)
    assert now <= 0.5 + SLOW_WINDOW + 1


def test_who_is_quick_enough_or_nearly_done_or_receives_it_itself_is_not_left_for_its_rate() -> None:
    quick = relaying(source(b"a", committed=True))
    crawl(quick, 0.0, SLOW_RATE * 1.5, 30)
    done = relaying(source(b"a", committed=True))
    done.know_total(SLOW_RATE * 20)
    crawl(done, 0.0, SLOW_RATE * 0.9, 10)
    growing = relaying(A)
    crawl(growing, 0.0, SLOW_RATE / 2, 30)
    full = relaying(source(b"a", committed=True))
    for second in range(30):  # our containerd takes next to nothing
        full.excused(float(second))
        full.next_step(float(second))
    assert all(choice.source is not None for choice in (quick, done, growing, full))


def test_where_all_crawl_the_last_one_is_kept() -> None:
    """It is our own link then."""
    names = [bytes([number]) for number in range(MAX_SLOW + 1)]
    choice, now = relaying(source(names[0], committed=True)), 0.0
    for name in names[1:]:
        now, step = crawl(choice, now, 10_000, 60)
        assert isinstance(step, JoinNow)
        choice.answered(Follow((source(name, committed=True),), 1), now)
        choice.next_step(now)
        choice.taken(source(name, committed=True), now)
    crawl(choice, now, 10_000, 60)
    assert choice.source is not None


def test_where_the_coordinators_are_silent_one_that_was_found_goes_on_each_time() -> None:
    choice = relaying(source(b"a", committed=True))
    for number in range(3):
        now = 10.0 * number
        choice.grew(100 * number + 1, now)
        choice.failed(b"a" if not number else bytes([number - 1]), SourceFailure.ENDED, now)
        assert isinstance(choice.next_step(now), JoinNow)
        found = source(bytes([number]), committed=True)
        choice.found(found)
        choice.answered(None, now + 0.3)
        assert choice.next_step(now + 0.3) == Take(found)
        choice.taken(found, now + 0.3)


def test_a_source_whose_lead_queues_is_not_to_blame_within_the_hard_limit() -> None:
    choice, waiting = SourceChoice(FollowSettings(), KEY, 0.0), source(b"a", offset=0)
    assert isinstance(choice.next_step(0.0), JoinNow)
    choice.answered(Follow((waiting,), 1), 0.0)
    assert choice.next_step(0.0) == Take(waiting)
    choice.taken(waiting, 0.0)
    now = 0.0
    while now < HARD_LIMIT - 0.5:
        now += 0.5
        step = choice.next_step(now)
        assert isinstance(step, RenewNow), now
        choice.answered(Keep(1, 500, queued=True), now)
        assert choice.source == waiting
    choice.next_step(HARD_LIMIT)
    assert choice.leaves


def test_who_has_just_found_a_holder_is_not_sent_upstream_for_a_pull_that_was_broken_off_before() -> None:
    choice = knowing(DONE)
    choice.next_step(0.0)
    choice.taken(DONE, 0.001, unnamed=True)
    assert isinstance(choice.next_step(0.03), RenewNow)
    choice.answered(Lead(3000), 0.04)
    assert isinstance(choice.next_step(0.04), Stay)
    choice.grew(100, 0.4)
    assert isinstance(choice.next_step(0.6), RenewNow)
    choice.answered(Lead(3000), 0.61)  # this time it is about this pull
    assert choice.next_step(0.61) == GoUpstream(leading=True, reason="lead")
