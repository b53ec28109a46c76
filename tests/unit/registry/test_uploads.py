"""The places for uploads to peers."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from peili.registry.uploads import Uploads


def test_places_are_taken_and_given_back() -> None:
    uploads = Uploads(2)
    with uploads.place("a") as first, uploads.place("b") as second:
        assert (first, second) == (True, True)
        with uploads.place("c") as third:
            assert not third
        assert uploads.in_flight == 2
    assert uploads.in_flight == 0
    with uploads.place("c") as again:
        assert again


def test_a_place_comes_back_whatever_happens() -> None:
    uploads = Uploads(1)
    with pytest.raises(ZeroDivisionError), uploads.place("a"):
        raise ZeroDivisionError
    with uploads.place("a") as granted:
        assert granted


@pytest.mark.parametrize(("limit", "of_one"), [(1, 1), (2, 1), (3, 2), (64, 32)])
def test_one_peer_gets_at_most_half_of_them(limit: int, of_one: int) -> None:
    uploads = Uploads(limit)
    with ExitStack() as stack:
        granted = [stack.enter_context(uploads.place("greedy")) for _ in range(limit + 1)]
        assert sum(granted) == of_one
        others = [stack.enter_context(uploads.place(f"other {n}")) for n in range(limit)]
        assert sum(others) == limit - of_one


def test_without_a_limit_there_are_always_more() -> None:
    uploads = Uploads(0)
    with ExitStack() as stack:
        assert all(stack.enter_context(uploads.place("a")) for _ in range(1000))
