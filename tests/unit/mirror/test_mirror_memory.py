"""What the mirror remembers: histories of providers and bodies that were given up."""

from __future__ import annotations

from peili.mirror import giveup
from peili.mirror.giveup import GiveUps
from peili.mirror.history import (
    FIRST_PENALTY,
    LONGEST_HEDGE,
    LONGEST_PENALTY,
    MAXIMUM_PROVIDERS,
    SHORTEST_HEDGE,
    UNKNOWN_HEDGE,
    History,
)
from peili.oci.digest import Digest


def test_the_hedge_follows_the_90th_percentile_within_bounds() -> None:
    history = History()
    assert history.hedge_after("a") == UNKNOWN_HEDGE
    for _ in range(17):
        history.answered("a", 0.02)
    for _ in range(3):
        history.answered("a", 0.1)
    assert history.hedge_after("a") == 0.1
    history.answered("fast", 0.0001)
    assert history.hedge_after("fast") == SHORTEST_HEDGE
    history.answered("slow", 30.0)
    assert history.hedge_after("slow") == LONGEST_HEDGE


def test_failures_in_a_row_weigh_more_and_a_success_forgives() -> None:
    history = History()
    history.failed("a", now=0.0)
    assert history.is_suspect("a", FIRST_PENALTY - 0.1)
    assert not history.is_suspect("a", FIRST_PENALTY)
    history.failed("a", now=10.0)
    assert history.is_suspect("a", 10.0 + 2 * FIRST_PENALTY - 0.1)
    for _ in range(100):
        history.failed("a", now=20.0)
    assert not history.is_suspect("a", 20.0 + LONGEST_PENALTY)
    history.failed("a", now=30.0)
    history.answered("a", 0.01)
    assert not history.is_suspect("a", 30.0)


def test_what_fails_at_once_is_one_failure() -> None:
    """A moment's trouble, met by sixty requests, does not shut out a node for two minutes."""
    history = History()
    history.busy("a", now=-0.5)  # that it was busy before does not hide the failure
    for _ in range(60):
        history.failed("a", now=0.0)
    history.failed("a", now=FIRST_PENALTY - 0.1)
    assert history.is_suspect("a", FIRST_PENALTY - 0.01)
    assert not history.is_suspect("a", FIRST_PENALTY)


def test_the_history_is_bounded_and_forgets_the_oldest() -> None:
    history = History()
    history.failed("old", now=0.0)
    for number in range(MAXIMUM_PROVIDERS):
        history.failed(str(number), now=0.0)
    assert not history.is_suspect("old", 0.0)
    assert history.is_suspect("0", 0.0)


def test_a_give_up_is_remembered_for_a_while() -> None:
    digest = Digest.of(b"x")
    memory = GiveUps(seconds=30.0)
    assert not memory.contains(digest, 0.0)
    memory.remember(digest, 0.0)
    assert memory.contains(digest, 29.9)
    assert not memory.contains(digest, 30.0)
    assert not memory.contains(Digest.of(b"y"), 1.0)


def test_the_give_up_memory_is_bounded() -> None:
    memory = GiveUps(seconds=30.0)
    for number in range(giveup.MAXIMUM_ENTRIES + 1):
        memory.remember(Digest.of(str(number).encode()), 0.0)
    assert not memory.contains(Digest.of(b"0"), 0.0)
    assert memory.contains(Digest.of(b"1"), 0.0)


def test_another_pull_of_what_was_given_up_shares_again() -> None:
    """containerd asks again at once, from where it is; a pull that begins later, from the start, is another one."""
    memory = GiveUps()
    digest = Digest.of(b"x")
    memory.remember(digest, 0.0)
    assert memory.contains(digest, 0.9, from_start=True)
    assert memory.contains(digest, 4.9)
    assert not memory.contains(digest, 1.0, from_start=True)
    assert not memory.contains(digest, 1.0), "and its own retry is no part of that either"
