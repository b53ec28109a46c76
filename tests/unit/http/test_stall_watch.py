from __future__ import annotations

import pytest

from peili.http.stall import (
    GATHER,
    LOW_WATER,
    LOW_WATER_PATIENCE,
    MINIMUM_PROGRESS,
    StallWatch,
    next_low_water,
)


def test_a_source_that_gives_nothing_for_the_timeout_is_stalled() -> None:
    watch = StallWatch(10.0)
    watch.waited(9.9)
    assert 0 < watch.left < 0.2
    watch.waited(0.1)
    assert watch.stalled
    assert watch.left == 0.0


def test_progress_begins_the_window_anew() -> None:
    watch = StallWatch(10.0)
    watch.waited(9.9)
    watch.arrived(MINIMUM_PROGRESS)
    assert watch.left == 10.0
    watch.waited(9.9)
    assert not watch.stalled


def test_waits_add_up_and_bytes_add_up() -> None:
    watch = StallWatch(10.0)
    for _ in range(4):
        watch.waited(2.4)
        watch.arrived(MINIMUM_PROGRESS // 4)
    assert watch.left == 10.0


def test_a_source_that_drips_is_stalled() -> None:
    watch = StallWatch(10.0)
    for _ in range(10):
        watch.arrived(1)
        watch.waited(1.0)
    assert watch.stalled


def test_a_link_of_10_kilobytes_a_second_is_never_stalled() -> None:
    watch = StallWatch(1.0)
    for _ in range(1000):
        watch.waited(0.1)
        watch.arrived(1000)
        assert not watch.stalled


def test_time_that_is_not_fed_in_does_not_count() -> None:
    # The sink was full for an hour: nobody called waited(), so nothing happened.
    watch = StallWatch(10.0)
    watch.waited(1.0)
    assert watch.left == 9.0


def test_the_low_water_mark_rises_with_what_arrives_at_once() -> None:
    mark, steps = 1, 0
    while mark < LOW_WATER:
        mark = next_low_water(mark, max(1448, mark), 0.0001, expired=False)
        steps += 1
    assert mark == LOW_WATER
    assert steps < 12
    assert next_low_water(mark, 10 * LOW_WATER, 0.001, expired=False) == LOW_WATER


@pytest.mark.parametrize("rate", [100_000, 1_000_000, 8_000_000])
def test_the_low_water_mark_is_what_comes_in_a_moment_whatever_the_rate(rate: int) -> None:
    mark = 1
    for _ in range(20):
        seconds = max(mark, 1448) / rate
        mark = next_low_water(mark, max(mark, 1448), seconds, expired=False)
    assert mark == pytest.approx(rate * GATHER, rel=0.01)


def test_the_low_water_mark_falls_when_patience_runs_out() -> None:
    assert next_low_water(LOW_WATER, 1000, LOW_WATER_PATIENCE, expired=True) < 1000
    assert next_low_water(LOW_WATER, 4, LOW_WATER_PATIENCE, expired=True) == 1
    assert next_low_water(LOW_WATER, 0, LOW_WATER_PATIENCE, expired=True) == 1


def test_the_low_water_mark_stays_when_nothing_was_taken() -> None:
    assert next_low_water(4096, 0, 1.0, expired=False) == 4096
    assert next_low_water(1, 0, 1.0, expired=False) == 1
