"""Stories of a race: events come in, the next step is asked for, nothing waits."""

from __future__ import annotations

import math

from peili.mirror.history import BUSY_PENALTY, FIRST_PENALTY, UNKNOWN_HEDGE, History
from peili.mirror.race import NO_ROOM, PATIENCE, GiveUp, Race, RaceLimits, Start, Wait
from peili.routing.protocol import Provider

FIRST, SECOND, THIRD = (Provider(name, "127.0.0.1", 5000) for name in ("first", "second", "third"))
LIMITS = RaceLimits(resolve_timeout=0.25, attempts=3, at_once=2)


def race(history: History | None = None, *, excluded: tuple[str, ...] = ()) -> Race:
    return Race(LIMITS, history or History(), now=100.0, excluded=excluded)


def test_a_provider_is_asked_as_soon_as_it_is_found() -> None:
    story = race()
    assert story.next_step(100.0) == Wait(100.25)
    story.found(FIRST, 100.0)
    assert story.next_step(100.1) == Start(FIRST, hedge=False)


def test_nobody_found_in_time_is_a_give_up() -> None:
    assert race().next_step(100.25) == GiveUp("resolve_timeout")


def test_nobody_to_be_found_is_a_give_up_at_once() -> None:
    story = race()
    story.exhausted()
    assert story.next_step(100.0) == GiveUp("no_provider")


def test_a_provider_that_is_being_asked_is_waited_for_beyond_the_resolve_timeout() -> None:
    story = race()
    story.found(FIRST, 100.0)
    story.started(FIRST, 100.2)
    story.exhausted()
    assert story.next_step(101.0) == Wait(math.inf)


def test_an_unknown_slow_provider_gets_company() -> None:
    story = race()
    story.found(FIRST, 100.0)
    story.found(SECOND, 100.0)
    story.started(FIRST, 100.0)
    assert story.next_step(100.0) == Wait(100.0 + UNKNOWN_HEDGE)
    assert story.next_step(100.0 + UNKNOWN_HEDGE) == Start(SECOND, hedge=True)


def test_a_slow_first_provider_gets_company_after_its_own_p90() -> None:
    history = History()
    for _ in range(20):
        history.answered("first", 0.02)
    story = race(history)
    story.found(FIRST, 100.0)
    story.found(SECOND, 100.0)
    story.started(FIRST, 100.0)
    assert story.next_step(100.019) == Wait(100.02)
    assert story.next_step(100.021) == Start(SECOND, hedge=True)


def test_no_more_are_asked_at_once_than_allowed() -> None:
    story = race()
    for provider in (FIRST, SECOND, THIRD):
        story.found(provider, 100.0)
    story.started(FIRST, 100.0)
    story.started(SECOND, 100.1)
    assert story.next_step(105.0) == Wait(math.inf)
    story.failed(FIRST)
    assert story.next_step(105.0) == Start(THIRD, hedge=True)


def test_a_failed_provider_is_followed_by_the_next_and_then_by_nobody() -> None:
    story = race()
    story.found(FIRST, 100.0)
    story.started(FIRST, 100.0)
    story.failed(FIRST)
    story.found(FIRST, 100.0)  # named again: counts for nothing
    story.found(SECOND, 100.0)
    assert story.next_step(100.1) == Start(SECOND, hedge=False)
    story.started(SECOND, 100.1)
    story.failed(SECOND)
    story.exhausted()
    assert story.next_step(100.1) == GiveUp("failed")
    assert story.attempts == 2


def test_the_number_of_attempts_is_bounded() -> None:
    story = race()
    for number in range(10):
        story.found(Provider(str(number), "127.0.0.1", 5000), 100.0)
    for _ in range(3):
        step = story.next_step(100.0)
        assert isinstance(step, Start)
        story.started(step.provider, 100.0)
        story.failed(step.provider)
    assert story.next_step(100.0) == GiveUp("attempts")


def test_one_that_failed_lately_is_asked_last() -> None:
    history = History()
    history.failed("first", 99.0)
    story = race(history)
    story.found(FIRST, 100.0)
    story.found(SECOND, 100.0)
    assert story.next_step(100.0) == Start(SECOND, hedge=False)
    story.started(SECOND, 100.0)
    story.failed(SECOND)
    story.exhausted()
    assert story.next_step(100.0) == Start(FIRST, hedge=False)


def test_excluded_providers_are_not_asked() -> None:
    story = race(excluded=("first",))
    story.found(FIRST, 100.0)
    story.exhausted()
    assert story.next_step(100.0) == GiveUp("no_provider")


def test_one_that_failed_lately_waits_a_moment_for_a_better_one() -> None:
    history = History()
    history.failed("first", 99.0)
    story = race(history)
    story.found(FIRST, 100.0)
    assert story.next_step(100.0) == Wait(100.0 + PATIENCE)
    assert story.next_step(100.0 + PATIENCE) == Start(FIRST, hedge=False)
    story.exhausted()
    assert story.next_step(100.0) == Start(FIRST, hedge=False)


def test_busy_providers_cost_no_attempt() -> None:
    story = race()
    busy = [Provider(f"busy {n}", "127.0.0.1", 5000) for n in range(5)]
    for provider in (*busy, FIRST):
        story.found(provider, 100.0)
    for provider in busy:
        assert story.next_step(100.0) == Start(provider, hedge=False)
        story.started(provider, 100.0)
        story.failed(provider, busy=True)
    assert story.next_step(100.0) == Start(FIRST, hedge=False)


def test_not_all_the_busy_ones_of_a_large_cluster_are_asked() -> None:
    story, asked = race(), 0
    for n in range(1000):
        story.found(Provider(str(n), "127.0.0.1", 5000), 100.0)
    while isinstance(step := story.next_step(100.0), Start):
        story.started(step.provider, 100.0)
        story.failed(step.provider, busy=True)
        asked += 1
    assert step == GiveUp("attempts")
    assert asked == LIMITS.attempts + LIMITS.busy


def test_with_all_of_them_busy_the_race_says_so() -> None:
    story = race()
    for provider in (FIRST, SECOND):
        story.found(provider, 100.0)
        story.started(provider, 100.0)
    story.exhausted()
    story.failed(FIRST, busy=True)
    story.failed(SECOND, busy=True)
    assert story.next_step(100.0) == GiveUp("busy")


def test_where_an_answer_finds_no_room_nobody_else_is_asked_and_nobody_blamed() -> None:
    history = History()
    story = race(history)
    for provider in (FIRST, SECOND, THIRD):
        story.found(provider, 100.0)
    story.started(FIRST, 100.0)
    story.started(SECOND, 100.1)
    story.found_no_room(SECOND)
    assert story.next_step(105.0) == Wait(math.inf), "the other one is being read"
    story.failed(FIRST)
    assert story.next_step(105.0) == GiveUp(NO_ROOM)
    assert not history.is_suspect("second", 105.0)


def test_a_busy_provider_is_asked_last_for_a_moment_and_its_failures_do_not_add_up() -> None:
    history = History()
    for _ in range(10):
        history.busy("first", 100.0)
    assert history.is_suspect("first", 100.0)
    assert not history.is_suspect("first", 100.0 + BUSY_PENALTY)
    history.failed("second", 100.0)
    history.busy("second", 100.0)
    assert history.is_suspect("second", 100.0 + BUSY_PENALTY), "a failure is not forgiven for being busy"
    history.failed("first", 200.0)
    assert not history.is_suspect("first", 200.0 + FIRST_PENALTY)
