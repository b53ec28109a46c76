"""Which readers count as fast."""

from __future__ import annotations

from peili.http.pace import FAST_BYTES, FAST_SECONDS, Pace


def test_what_its_socket_swallows_at_first_makes_no_reader_fast() -> None:
    pace = Pace(100.0)
    assert not pace.took(FAST_BYTES - 1, 100.0)
    for turn in range(1, 100):
        assert not pace.took(FAST_BYTES - 1, 100.0 + turn * 1.1 * FAST_SECONDS)
    assert not pace.fast


def test_a_fast_reader_is_told_once_and_stays_one_until_it_stops() -> None:
    pace = Pace(100.0)
    assert not pace.took(FAST_BYTES // 2, 100.0)
    assert pace.took(FAST_BYTES // 2, 100.0 + FAST_SECONDS)
    assert not pace.took(FAST_BYTES, 101.0)
    assert not pace.took(1, 200.0)
    assert pace.fast
    pace.stopped(200.0)
    assert not pace.took(FAST_BYTES - 1, 200.0)
    assert pace.took(1, 200.0)


def test_a_reader_that_was_never_waited_for_is_fast_however_slow_its_source_is() -> None:
    pace = Pace(100.0)
    assert not pace.took(1, 200.0)
    pace.flowed(300.0)
    assert pace.took(1, 300.0)
    assert pace.fast
