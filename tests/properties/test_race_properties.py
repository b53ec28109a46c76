"""A race ends whatever peers do, asks each once, and never more at a time than allowed; the stall watch counts."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.http.stall import MINIMUM_PROGRESS, StallWatch
from peili.mirror.history import History
from peili.mirror.race import GiveUp, Race, RaceLimits, Start, Wait
from peili.routing.protocol import Provider
from tests.properties.effort import examples

LIMITS = RaceLimits(resolve_timeout=0.25)
NAMES = st.sampled_from([f"peer {number}" for number in range(12)])
EVENTS = st.lists(st.tuples(st.sampled_from(["found", "failed", "busy", "no room", "pause"]), NAMES), max_size=60)


@settings(deadline=None, max_examples=examples(300))
@given(EVENTS, st.sets(NAMES), st.sets(NAMES))
def test_a_race_ends_and_keeps_its_bounds(
    events: list[tuple[str, str]], suspects: set[str], excluded: set[str]
) -> None:
    history, now = History(), 100.0
    for name in suspects:
        history.failed(name, now)
    race = Race(LIMITS, history, now=now, excluded=excluded)
    asked: list[str] = []
    running: dict[str, Provider] = {}
    full = False

    def act() -> Wait | GiveUp:
        while isinstance(step := race.next_step(now), Start):
            assert step.provider.peer_id not in asked
            assert step.provider.peer_id not in excluded
            assert step.hedge == bool(running)
            assert not full
            asked.append(step.provider.peer_id)
            running[step.provider.peer_id] = step.provider
            race.started(step.provider, now)
            assert len(running) <= LIMITS.at_once
        return step

    def fail(name: str, why: str) -> None:
        nonlocal full
        provider = running.pop(name, None)
        if provider is None:
            return
        if why == "no room":
            race.found_no_room(provider)
            full = True
        else:
            race.failed(provider, busy=why == "busy")

    for event, name in events:
        if event == "found":
            race.found(Provider(name, "127.0.0.1", 5000), now)
        elif event == "pause":
            now += 0.1
        else:
            fail(name, event)
        step = act()
        if isinstance(step, Wait):
            assert step.until > now
    race.exhausted()
    for _ in range(200):
        step = act()
        if isinstance(step, GiveUp):
            break
        if math.isinf(step.until):
            assert running, "it waits for nothing"
            fail(next(iter(running)), "failed")
        else:
            now = step.until
    else:
        raise AssertionError("the race does not end")
    assert not running
    assert len(asked) <= LIMITS.attempts + LIMITS.busy


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(st.floats(0, 1) | st.integers(0, 3 * MINIMUM_PROGRESS), max_size=80))
def test_a_stalled_source_brought_too_little_in_a_window(story: list[float | int]) -> None:
    watch, waited, arrived = StallWatch(2.0), 0.0, 0
    for event in story:
        if isinstance(event, int):
            arrived += event
            watch.arrived(event)
            if arrived >= MINIMUM_PROGRESS:
                waited, arrived = 0.0, 0
        else:
            waited += event
            watch.waited(event)
        assert watch.stalled == (waited >= 2.0)
        assert 0.0 <= watch.left <= 2.0
