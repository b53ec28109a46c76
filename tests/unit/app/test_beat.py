"""Common beats."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from peili.beat import next_beat, sleep_to_beat


@given(st.floats(0, 1e7), st.sampled_from([0.25, 1 / 3, 0.5, 1.0, 10.0]))
def test_a_beat_is_near_ahead_and_a_multiple(now: float, interval: float) -> None:
    beat = next_beat(now, interval)
    assert 0.499 * interval <= beat - now <= 1.501 * interval
    assert beat / interval == pytest.approx(round(beat / interval))
    assert next_beat(beat + 0.01 * interval, interval) == pytest.approx(beat + interval)


async def test_tasks_that_began_at_different_times_wake_together(autojump_clock: MockClock) -> None:
    woke: list[tuple[float, float]] = []

    async def look(delay: float, interval: float) -> None:
        await trio.sleep(delay)
        while trio.current_time() < 100:
            await sleep_to_beat(interval)
            woke.append((interval, round(trio.current_time(), 6)))

    async with trio.open_nursery() as nursery:
        for delay, interval in ((0.1, 1.0), (0.37, 1.0), (0.62, 1 / 3), (0.9, 0.5)):
            nursery.start_soon(look, delay, interval)
    seconds = [time for interval, time in woke if interval == 1.0 and time > 2]
    assert len(seconds) >= 2 * 98
    assert all(seconds.count(time) == 2 for time in seconds)
    for interval in (1 / 3, 0.5):
        assert set(seconds) <= {time for other, time in woke if other == interval}
