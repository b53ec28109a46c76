"""What `peili status` says of pulls that are shared while they go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from peili.commands.status import render
from peili.follow.coordinator import Coordinator
from peili.follow.message import Answer, Ask, Follow, Join, Keep, Lead, Leave, Outcome, Peer, Renew, Source, Wait
from peili.follow.settings import FollowSettings
from peili.http.server import ServerStatistics
from peili.mirror.keeper import follow_key
from peili.observe.cold_pulls import FORGOTTEN_AFTER, MAXIMUM_FETCHES, ColdPulls, Fetch, Part
from peili.observe.health import Readiness
from peili.observe.metrics import LEFT_REASONS, Metrics
from peili.observe.recent import Recent
from peili.observe.status import render_status
from peili.oci.digest import Digest
from peili.routing.protocol import RouterStatistics
from peili.store.protocol import Kind, StoreStatistics

DIGEST = Digest.of(b"a layer")
KEY = follow_key(DIGEST)
TARGET = f"/v2/library/app/blobs/{DIGEST}?ns=docker.io"
ONE = Source(Peer(b"one", "10.0.0.1", 5000), 0, 0, committed=False)
TWO = Source(Peer(b"two", "fd00::2", 5000), 0, 1, committed=True)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def pulls(clock: Time, metrics: Metrics) -> ColdPulls:
    return ColdPulls(metrics, clock)


def the_only(pulls: ColdPulls) -> Fetch:
    (fetch,) = pulls.statistics().now
    return fetch


def test_a_lead_from_its_grant_to_its_commit(pulls: ColdPulls) -> None:
    pulls.asked(TARGET)
    pulls.told(Join(KEY, 0, 50), Lead(3000))
    assert the_only(pulls) == Fetch(str(DIGEST), Part.LEADS, 0, 50, 0, "")
    pulls.told(Renew(KEY, 20, 50), Keep(0, 500))
    assert the_only(pulls) == Fetch(str(DIGEST), Part.LEADS, 20, 50, 0, "")
    pulls.told(Leave(KEY, Outcome.COMMITTED), Keep())
    assert pulls.statistics().now == ()


def test_a_follower_that_waits_is_moved_and_then_has_to_lead(pulls: ColdPulls) -> None:
    pulls.asked(TARGET)
    pulls.told(Join(KEY, 0, 50), Wait(100))
    assert the_only(pulls).part is Part.WAITS
    pulls.told(Join(KEY, 0, 50), Follow((ONE, TWO), 1))
    assert the_only(pulls) == Fetch(str(DIGEST), Part.FOLLOWS, 0, 50, 1, "10.0.0.1:5000")
    pulls.told(Renew(KEY, 10, 0, b"one"), Follow((TWO,), 2))
    assert the_only(pulls) == Fetch(str(DIGEST), Part.FOLLOWS, 10, 50, 1, "10.0.0.1:5000"), "it has not moved yet"
    pulls.told(Renew(KEY, 30, 50, b"two"), Keep(2, 500))
    assert the_only(pulls) == Fetch(str(DIGEST), Part.FOLLOWS, 30, 50, 2, "[fd00::2]:5000")
    pulls.told(Renew(KEY, 40, 50), Keep(0, 500))
    assert the_only(pulls) == Fetch(str(DIGEST), Part.LEADS, 40, 50, 0, "")


@pytest.mark.parametrize("answer", [None, Follow(())])
def test_without_a_word_of_the_coordinators_nothing_is_shared(pulls: ColdPulls, answer: Answer | None) -> None:
    pulls.told(Join(KEY), Wait(100))
    pulls.told(Join(KEY), answer)
    assert pulls.statistics().now == ()


def test_a_pull_that_nothing_is_heard_of_is_not_shown(pulls: ColdPulls, clock: Time) -> None:
    pulls.told(Join(KEY), Lead(3000))
    clock.now += FORGOTTEN_AFTER
    assert pulls.statistics().now == ()


def test_a_digest_that_was_not_asked_for_here_has_no_name(pulls: ColdPulls) -> None:
    pulls.asked("/v2/library/app/manifests/1.0?ns=docker.io")
    pulls.told(Renew(KEY, 1, 5, b"\xab\xcd"), Keep(3, 500))
    assert the_only(pulls) == Fetch("", Part.FOLLOWS, 1, 5, 3, "abcd")


def test_what_is_kept_is_bounded(pulls: ColdPulls) -> None:
    for number in range(MAXIMUM_FETCHES + 10):
        pulls.told(Join(number.to_bytes(32, "big")), Lead(3000))
    assert len(pulls.statistics().now) == MAXIMUM_FETCHES


def count(metrics: Metrics, series: str) -> float:
    lines = metrics.render().decode().splitlines()
    return next(float(line.removeprefix(series)) for line in lines if line.startswith(f"{series} "))


def test_the_metrics_hear_of_everything_and_tell_joins_from_renewals(pulls: ColdPulls, metrics: Metrics) -> None:
    happened: list[Callable[[], None]] = [
        pulls.leading,
        lambda: pulls.following(2),
        lambda: pulls.followed_bytes(70),
        lambda: pulls.left_to_upstream(LEFT_REASONS[0]),
        lambda: pulls.thrown_away(DIGEST, ["one"]),
    ]
    for happen in happened:
        happen()
    messages: list[tuple[Ask, Answer | None]] = [
        (Join(KEY), Lead(3000)),
        (Renew(KEY, 1), Keep()),
        (Renew(KEY, 2), None),
        (Leave(KEY, Outcome.COMMITTED), Keep()),
    ]
    for ask, answer in messages:
        pulls.told(ask, answer)
    for series, value in (
        ("peili_follow_leads_total", 1),
        ("peili_follow_follows_total", 1),
        ("peili_follow_depth", 2),
        ("peili_follow_growing_bytes_total", 70),
        ('peili_follow_left_to_upstream_total{reason="no coordinator"}', 1),
        ('peili_follow_left_to_upstream_total{reason="slots"}', 0),
        ("peili_bodies_thrown_away_total", 1),
        ('peili_follow_asks_total{ask="join"}', 1),
        ('peili_follow_asks_total{ask="renew"}', 2),
        ('peili_follow_asks_total{ask="leave"}', 1),
    ):
        assert count(metrics, series) == value, series


def document(pulls: ColdPulls | None) -> dict[str, Any]:
    """As `peili status` gets it."""
    coordinator = Coordinator(FollowSettings())
    coordinator.join(Peer(b"three", "10.0.0.3", 5000), Join(KEY, 0, 50), 0.0)
    status = render_status(
        Readiness(True, "ready"),
        RouterStatistics("kademlia", "me", (), (), 0, 0, "", alone=True),
        StoreStatistics(
            "layout", "/x", synchronised=True, answering=True, problem="", keys=dict.fromkeys(Kind, 0), bytes=0
        ),
        ServerStatistics(
            connections=0,
            clients=0,
            in_flight=0,
            requests=0,
            accepted=0,
            refused=0,
            bad_requests=0,
            accept_errors=0,
        ),
        Recent(),
        pulls.statistics(coordinator.statistics()) if pulls is not None else None,
    )
    found: dict[str, Any] = json.loads(json.dumps(status))
    return found


def test_the_status_shows_what_is_in_flight_and_the_coordinators_work(pulls: ColdPulls) -> None:
    pulls.asked(TARGET)
    pulls.leading()
    pulls.following(1)
    pulls.followed_bytes(31_200_000)
    pulls.left_to_upstream("slots")
    pulls.told(Join(KEY, 0, 50_000_000), Follow((ONE,), 1))
    pulls.told(Renew(b"x" * 32, 1_500_000, 3_000_000), Keep())
    shown = document(pulls)
    assert shown["cold_pulls"]["now"][0]["digest"] == str(DIGEST)
    assert shown["cold_pulls"]["coordinator"]["leads_granted"] == 1
    text = render(shown)
    assert "cold     1 led, 1 sources followed, 31.2 MB from layers in flight" in text
    assert "         left to upstream: 1 for slots" in text
    assert "         coordinates 1 digests (1 entries, 1 of them leads now); 1 leads granted" in text
    rows = [line.split() for line in text]
    assert ["follows", str(DIGEST)[:19], "0", "B", "50.0", "MB", "1", "10.0.0.1:5000"] in rows
    assert ["leads", "?", "1.5", "MB", "3.0", "MB", "upstream"] in rows


def test_a_node_that_does_not_follow_has_nothing_to_show() -> None:
    shown = document(None)
    assert shown["cold_pulls"] is None
    assert not any(line.startswith("cold") for line in render(shown))
    assert render(shown) == render({name: value for name, value in shown.items() if name != "cold_pulls"})
