"""Whose answer counts, and when a deputy leaves it to the closer coordinator."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from peili.follow.coordinator import Coordinator
from peili.follow.deputy import HOLD, SOLE
from peili.follow.message import (
    Answer,
    Ask,
    Follow,
    Join,
    Keep,
    Lead,
    Leave,
    Outcome,
    Peer,
    Purpose,
    Renew,
    Source,
    Wait,
)
from peili.follow.replies import (
    ASK_TIMEOUT,
    FROZEN_TIME,
    LEAD_PATIENCE,
    PATIENCE,
    SILENT_LEAD_PATIENCE,
    SILENT_TIME,
    SOLE_PATIENCE,
    STAND_IN_AFTER,
    Counts,
    Listen,
    Silences,
    StandIn,
    judge,
)
from peili.follow.settings import FollowSettings

KEY = b"k" * 32
A, B = Peer(b"a", "10.0.0.1", 5000), Peer(b"b", "10.0.0.2", 5000)
LEAD, WAIT, KEEP = Lead(3000), Wait(50), Keep()
SOLE_LEAD, FOLLOW = Lead(3000, sole=True), Follow((Source(A, 0, 0, committed=False),))


# judge


@pytest.mark.parametrize("answer", [FOLLOW, WAIT, KEEP])
def test_the_closest_one_counts_at_once(answer: Answer) -> None:
    assert judge({0: answer}, 2, 0.001, {}) == Counts(answer)
    assert judge({0: answer, 1: LEAD}, 2, 0.001, {}) == Counts(answer)


@pytest.mark.parametrize("lead", [LEAD, SOLE_LEAD])
def test_a_lead_is_held_against_what_the_other_one_knows(lead: Lead) -> None:
    assert judge({0: lead}, 2, 0.001, {}) == Listen(PATIENCE)
    assert judge({0: lead}, 2, PATIENCE, {}) == Counts(lead)
    assert judge({0: lead}, 2, 0.001, {1: 0.3}) == Counts(lead), "it was silent before"
    assert judge({0: lead, 1: WAIT}, 2, 0.001, {}) == Counts(lead)
    assert judge({0: lead, 1: None}, 2, 0.001, {}) == Counts(lead)
    assert judge({0: lead, 1: FOLLOW}, 2, 0.001, {}) == Counts(FOLLOW)


def test_a_sole_lead_of_the_second_counts_soon_and_of_one_beyond_it_as_any_other() -> None:
    assert judge({1: SOLE_LEAD}, 2, 0.001, {}) == Listen(SOLE_PATIENCE)
    assert judge({1: SOLE_LEAD}, 2, SOLE_PATIENCE, {}) == Counts(SOLE_LEAD)
    assert judge({2: SOLE_LEAD}, 3, SOLE_PATIENCE, {0: 0.3, 1: 0.2}) == Listen(0.3)


def test_the_second_counts_after_some_patience_and_its_lead_after_more() -> None:
    assert judge({1: WAIT}, 2, 0.001, {}) == Listen(PATIENCE)
    assert judge({1: WAIT}, 2, PATIENCE, {}) == Counts(WAIT)
    assert judge({1: LEAD}, 2, PATIENCE, {}) == Listen(LEAD_PATIENCE)
    assert judge({1: LEAD}, 2, LEAD_PATIENCE, {}) == Counts(LEAD)


def test_the_second_counts_at_once_where_the_first_failed() -> None:
    assert judge({0: None, 1: LEAD}, 2, 0.001, {}) == Counts(LEAD)


def test_one_that_was_silent_before_is_waited_for_only_beside_a_lead() -> None:
    assert judge({1: WAIT}, 2, 0.001, {0: 0.04}) == Counts(WAIT)
    assert judge({1: LEAD}, 2, 0.001, {0: 0.04}) == Listen(0.04)
    assert judge({1: LEAD}, 2, 0.04, {0: 0.04}) == Counts(LEAD)


def test_where_all_are_silent_nothing_counts() -> None:
    assert judge({}, 2, 0.1, {}) == Listen(ASK_TIMEOUT)
    assert judge({}, 2, ASK_TIMEOUT, {}) == Counts(None)
    assert judge({0: None, 1: None}, 2, 0.001, {}) == Counts(None)


UNPROVIDED = Lead(3000, unprovided=True)


@pytest.mark.parametrize(
    ("replies", "unprovided"),
    [
        ({0: UNPROVIDED, 1: WAIT}, True),
        ({0: UNPROVIDED, 1: UNPROVIDED}, True),
        ({0: UNPROVIDED, 1: LEAD}, False),
        ({0: LEAD, 1: UNPROVIDED}, False),
        ({0: UNPROVIDED}, False),
        ({0: UNPROVIDED, 1: None}, False),
        ({1: UNPROVIDED}, False),
    ],
)
def test_nobody_has_it_where_the_one_that_counts_says_so_and_all_have_spoken(
    replies: dict[int, Answer | None], unprovided: bool
) -> None:
    assert judge(replies, 2, LEAD_PATIENCE, {}) == Counts(Lead(3000, unprovided=unprovided))


def test_the_stand_in_does_not_know_that_nobody_has_it() -> None:
    assert judge({}, 2, 0.04, {}, replace(SOLE_LEAD, unprovided=True)) == Counts(SOLE_LEAD)


# The stand-in


@pytest.mark.parametrize("replies", [{}, {0: None}, {0: None, 1: None, 2: LEAD}])
def test_a_sole_lead_of_the_stand_in_counts_where_both_coordinators_are_silent(
    replies: dict[int, Answer | None],
) -> None:
    assert judge(replies, 4, 0.04, {0: 0.3, 1: 0.3}, SOLE_LEAD) == Counts(SOLE_LEAD)


@pytest.mark.parametrize("answer", [LEAD, FOLLOW, WAIT, KEEP, None])
def test_nothing_else_of_the_stand_in_counts(answer: Answer | None) -> None:
    assert judge({}, 2, 0.04, {}, answer) == Listen(ASK_TIMEOUT)


@pytest.mark.parametrize("place", [0, 1])
def test_the_stand_in_counts_less_than_a_coordinator(place: int) -> None:
    assert judge({place: WAIT}, 2, 0.04, {}, SOLE_LEAD) == Counts(WAIT)


def test_the_stand_in_is_asked_twice_and_decides_the_second_time() -> None:
    stand_in = StandIn(Join(KEY), 2)
    assert stand_in.next_at({}) == STAND_IN_AFTER
    assert not stand_in.asked()
    assert stand_in.next_at({0: None}) == STAND_IN_AFTER + SOLE
    assert stand_in.next_at({1: WAIT}) == math.inf, "a coordinator has answered"
    assert stand_in.asked()
    assert stand_in.next_at({}) == math.inf


def test_a_stand_in_that_was_asked_with_two_silent_coordinators_decides_the_next_time() -> None:
    stand_in = StandIn(Join(KEY), 4)
    assert stand_in.next_at({2: LEAD}) == SOLE
    assert stand_in.asked()


@pytest.mark.parametrize("ask", [Renew(KEY, 0), Join(KEY, purpose=Purpose.RESUME), Leave(KEY, Outcome.COMMITTED)])
def test_a_stand_in_is_asked_by_who_begins_and_told_by_who_leads(ask: Ask) -> None:
    assert StandIn(ask, 2).next_at({}) == math.inf
    assert StandIn.is_told(ask) is isinstance(ask, Renew)
    assert not StandIn.is_told(Renew(KEY, 0, source=b"a"))


# Silences


def test_a_lead_waits_for_a_silent_one_until_it_must_be_taken_for_frozen() -> None:
    silences = Silences()
    assert silences.timed_out(b"a", ASK_TIMEOUT)
    assert silences.places([b"a", b"b"], 0.35) == {0: pytest.approx(FROZEN_TIME - 0.35)}
    assert not silences.timed_out(b"a", 0.65), "it is known"
    assert silences.places([b"b", b"a"], 0.65) == {1: SILENT_LEAD_PATIENCE}
    assert silences.has(b"a", 0.65 + SILENT_TIME - 0.01)
    silences.expire(0.65 + SILENT_TIME)
    assert not silences.has(b"a", 0.65)


def test_one_that_answers_is_silent_no_more_and_one_that_cannot_be_reached_is_frozen() -> None:
    silences = Silences()
    silences.failed(b"a", 1.0)
    assert silences.places([b"a"], 1.0) == {0: SILENT_LEAD_PATIENCE}
    silences.heard(b"a")
    assert silences.places([b"a"], 1.0) == {}


# The deputy


def test_a_deputy_leaves_the_first_word_to_the_closer_coordinator() -> None:
    table = Coordinator(FollowSettings())
    assert table.join(B, Join(KEY), 0.0, deputy=True) == Wait(10)
    assert table.join(A, Join(KEY), SOLE, deputy=True) == WAIT
    assert table.join(B, Join(KEY), HOLD - 0.01, deputy=True) == WAIT
    assert isinstance(table.join(B, Join(KEY), HOLD, deputy=True), Lead), "it has said nothing"
    answer = table.join(A, Join(KEY), HOLD + 0.01, deputy=True)
    assert isinstance(answer, Follow)
    assert answer.sources[0].peer == B


@pytest.mark.parametrize("alone", [True, False])
def test_a_deputy_answers_soon_who_is_the_only_one_that_asks(alone: bool) -> None:
    table = Coordinator(FollowSettings())
    assert isinstance(table.join(A, Join(KEY, alone=alone), 0.0, deputy=True), Wait)
    assert isinstance(table.join(A, Join(KEY, alone=alone), SOLE - 0.001, deputy=True), Wait)
    answer = table.join(A, Join(KEY, alone=alone), SOLE, deputy=True)
    assert isinstance(answer, Lead)
    assert answer.sole


def test_a_deputy_answers_as_soon_as_somebody_says_that_it_leads() -> None:
    table = Coordinator(FollowSettings())
    table.join(A, Join(KEY), 0.0, deputy=True)
    table.renew(B, Renew(KEY, 0), 0.01)
    assert isinstance(table.join(A, Join(KEY), 0.02, deputy=True), Follow)


def test_a_deputy_answers_who_has_given_the_other_up_and_who_resumes() -> None:
    table = Coordinator(FollowSettings())
    table.join(B, Join(KEY, alone=True), 0.0, deputy=True)
    assert isinstance(table.join(A, Join(KEY, alone=True), SOLE, deputy=True), Lead)
    table = Coordinator(FollowSettings())
    table.join(A, Join(KEY, 5, purpose=Purpose.RESUME), 0.0, deputy=True)
    assert isinstance(table.join(A, Join(KEY, 5, purpose=Purpose.RESUME), 2.2, deputy=True), Lead)


def test_a_lead_that_was_not_taken_up_is_not_repeated_beside_one_that_was() -> None:
    table = Coordinator(FollowSettings())
    assert isinstance(table.join(B, Join(KEY), 0.0), Lead)
    table.renew(A, Renew(KEY, 0), 0.01)  # as the other coordinator told it
    answer = table.join(B, Join(KEY), 0.02)
    assert isinstance(answer, Follow)
    assert answer.sources[0].peer == A
