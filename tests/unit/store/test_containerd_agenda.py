from __future__ import annotations

import pytest

from peili.oci.digest import Digest
from peili.store.containerd.agenda import (
    COLLECTED_SECONDS,
    INTERVAL_SECONDS,
    MAXIMUM_PENDING,
    RELIST_SECONDS,
    REST_FACTOR,
    RETRY_SECONDS,
    SETTLE_SECONDS,
    Agenda,
    Look,
    Work,
)

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
NOTHING = Work(False, (), ())


def settled(now: float) -> Agenda:
    """An agenda whose first walks are done."""
    agenda = Agenda(now - 2 * COLLECTED_SECONDS)
    for when in (now - 2 * COLLECTED_SECONDS, now - COLLECTED_SECONDS):
        assert agenda.take(when).walk
        agenda.walked(when, when)
    assert agenda.take(now) == NOTHING
    return agenda


def test_the_first_thing_is_a_walk_and_another_finds_what_came_while_subscribing() -> None:
    agenda = Agenda(100.0)
    assert agenda.take(100.0) == Work(True, (), ())
    agenda.walked(100.0, 100.0)
    assert agenda.next_time() == 100.0 + COLLECTED_SECONDS


def test_walks_come_at_an_interval() -> None:
    agenda = settled(100.0)
    agenda.walk_now(100.0)
    assert agenda.take(100.0).walk
    agenda.walked(100.0, 101.0)
    assert agenda.next_time() == 101.0 + INTERVAL_SECONDS
    assert not agenda.take(100.9 + INTERVAL_SECONDS).walk
    assert agenda.take(101.0 + INTERVAL_SECONDS).walk


def test_a_hundred_layers_are_a_hundred_looks_and_no_walk() -> None:
    agenda = settled(100.0)
    digests = [Digest.of(bytes([number])) for number in range(100)]
    for digest in digests:
        agenda.content_changed(digest, 100.0)
    assert agenda.take(100.0) == NOTHING
    assert agenda.next_time() == 100.0 + SETTLE_SECONDS
    assert agenda.take(100.0 + SETTLE_SECONDS) == Work(False, (), tuple(Look(digest, 0) for digest in digests))
    assert agenda.take(100.0 + RELIST_SECONDS) == NOTHING


def test_a_burst_of_image_events_is_looked_up_soon_and_walked_once() -> None:
    agenda = settled(100.0)
    agenda.image_changed("a", 100.0)
    assert agenda.take(100.0 + SETTLE_SECONDS) == Work(False, ("a",), ())
    later = 100.0 + RELIST_SECONDS / 2
    agenda.image_changed("b", later)
    agenda.image_changed("b", later + SETTLE_SECONDS / 2)
    assert agenda.next_time() == later + SETTLE_SECONDS, "however many follow"
    assert agenda.take(later) == NOTHING
    assert agenda.take(later + SETTLE_SECONDS) == Work(False, ("b",), ())
    assert agenda.next_time() == 100.0 + RELIST_SECONDS
    assert agenda.take(100.0 + RELIST_SECONDS) == Work(True, (), ())


def test_a_removal_is_walked_again_when_garbage_is_collected() -> None:
    agenda = settled(100.0)
    agenda.image_removed("a", 100.0)
    assert agenda.take(100.0 + RELIST_SECONDS).walk
    agenda.walked(101.0, 101.0)
    assert agenda.next_time() == 100.0 + COLLECTED_SECONDS
    assert agenda.take(100.0 + COLLECTED_SECONDS).walk
    agenda.walked(110.0, 110.0)
    assert agenda.next_time() == 110.0 + INTERVAL_SECONDS


def test_a_slow_walk_is_followed_by_a_long_rest() -> None:
    agenda = settled(100.0)
    agenda.walk_now(100.0)
    assert agenda.take(100.0).walk
    agenda.walked(100.0, 103.0)
    agenda.walk_now(103.0)
    assert agenda.next_time() == 103.0 + 3.0 * REST_FACTOR
    assert not agenda.take(103.0 + 2.9 * REST_FACTOR).walk
    assert agenda.take(103.0 + 3.0 * REST_FACTOR).walk


def test_looks_are_repeated_with_growing_pauses_until_they_end() -> None:
    agenda, now = settled(100.0), 100.0
    look = Look(ONE, 0)
    for attempt, pause in enumerate(RETRY_SECONDS):
        assert agenda.retry(look, now)
        assert agenda.next_time() == now + pause
        assert agenda.take(now + 0.9 * pause) == NOTHING
        now += pause
        assert agenda.take(now).looks == (Look(ONE, attempt + 1),)
        look = Look(ONE, attempt + 1)
    assert not agenda.retry(look, now)


def test_news_begin_the_attempts_anew() -> None:
    agenda = settled(100.0)
    assert agenda.retry(Look(ONE, 3), 100.0)
    agenda.content_changed(ONE, 100.0)
    assert not agenda.retry(Look(ONE, len(RETRY_SECONDS)), 100.0)
    assert agenda.retry(Look(ONE, 1), 100.0)
    assert agenda.take(100.0 + SETTLE_SECONDS).looks == (Look(ONE, 0),)


def test_news_of_one_blob_that_do_not_end_do_not_put_the_look_off() -> None:
    agenda = settled(100.0)
    agenda.content_changed(ONE, 100.0)
    agenda.content_changed(ONE, 100.0 + SETTLE_SECONDS)
    assert agenda.take(100.0 + SETTLE_SECONDS).looks == (Look(ONE, 0),)


@pytest.mark.parametrize("images", [True, False])
def test_too_much_at_once_becomes_one_walk(images: bool) -> None:
    agenda = settled(100.0)
    for number in range(MAXIMUM_PENDING + 1):
        if images:
            agenda.image_changed(f"image {number}", 100.0)
        else:
            agenda.content_changed(Digest.of(number.to_bytes(4, "big")), 100.0)
    assert agenda.take(100.0) == NOTHING
    assert agenda.take(100.0 + RELIST_SECONDS) == Work(True, (), ())
    agenda.content_changed(TWO, 102.0)
    assert agenda.take(102.0 + SETTLE_SECONDS).looks == (Look(TWO, 0),)
