"""Whole bodies share a bounded room: who waits for it, how long, and that it is given back however a pull ends."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.http.client import Client
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.members.peer_requests import PeerRequests
from peili.mirror import attempt
from peili.mirror.answer import check_body
from peili.mirror.attempt import LARGE_MANIFEST_SIZE, Asker, Wanted, Whole
from peili.mirror.body_budget import PATIENCE, BodyBudget, NoRoom
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.mirror.giveup import GiveUps
from peili.mirror.history import History
from peili.mirror.lookup import Found, Lookup, NotFound, Observer
from peili.mirror.mirror import Mirror
from peili.mirror.race import NO_ROOM, RaceLimits
from peili.mirror.second_look import SecondLook
from peili.mirror.verdicts import Verdicts
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ManifestTarget
from peili.oci.key import Key, digest_key
from peili.oci.media_types import OCI_MANIFEST
from peili.oci.ranges import RangeRequest, Span
from peili.routing.memory import MemoryNetwork, MemoryRouter
from peili.routing.protocol import Provider, Router
from tests.fakes.nodes import PORT, fake_provider
from tests.fakes.routers import until

BODY = b"0123456789" * 1000
DIGEST = Digest.of(BODY)
KEY = digest_key(DIGEST)
WANTED = Wanted(BlobTarget("docker.io", "a", DIGEST))


async def test_what_fits_is_taken_at_once_and_given_back_once() -> None:
    budget = BodyBudget(10)
    first, second = await budget.take(6), await budget.take(4)
    assert budget.held == 10
    first.release()
    first.release()
    assert budget.held == 4
    second.release()
    assert budget.held == 0


async def test_who_finds_no_room_waits_for_it_and_no_longer_than_the_patience(autojump_clock: MockClock) -> None:
    budget = BodyBudget(10)
    lease = await budget.take(5)
    started = trio.current_time()
    with pytest.raises(NoRoom):
        await budget.take(6)
    assert trio.current_time() - started == pytest.approx(PATIENCE)
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            (await budget.take(10)).release()
            assert trio.current_time() - started == pytest.approx(PATIENCE / 2)

        started = trio.current_time()
        nursery.start_soon(take)
        await trio.sleep(PATIENCE / 2)
        lease.release()
    assert budget.held == 0


async def test_a_small_body_does_not_wait_behind_a_large_one(autojump_clock: MockClock) -> None:
    budget = BodyBudget(10)
    lease = await budget.take(5)
    async with trio.open_nursery() as nursery:

        async def wait_in_vain() -> None:
            with pytest.raises(NoRoom):
                await budget.take(6)

        nursery.start_soon(wait_in_vain)
        await wait_all_tasks_blocked()
        started = trio.current_time()
        (await budget.take(5)).release()
        assert trio.current_time() == started
    lease.release()
    assert budget.held == 0


async def test_who_is_cancelled_while_it_waits_takes_nothing(autojump_clock: MockClock) -> None:
    budget = BodyBudget(10)
    lease = await budget.take(10)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(budget.take, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert budget.held == 10
    lease.release()
    assert budget.held == 0


@dataclass
class Peers:
    """Peers that a node with this budget may ask."""

    network: MemoryNetwork
    budget: BodyBudget
    asker: Asker
    history: History

    def lookup(self, router: Router | None = None) -> Lookup:
        limits = RaceLimits(resolve_timeout=5.0)
        return Lookup(router or MemoryRouter(self.network), self.asker, self.history, limits, ignoring())


def ignoring() -> Observer:
    """Nobody wants to hear what happens."""
    names = ("attempt_failed", "hedged", "resumed", "thrown_away")
    return cast(Observer, SimpleNamespace(**dict.fromkeys(names, lambda *_: None)))


@asynccontextmanager
async def peers(limit: int = 1_000_000, *, silence: float = 0.2, patience: float = 0.05) -> AsyncIterator[Peers]:
    """Short limits; at the end nothing is held, whatever the test did."""
    client, budget = Client(), BodyBudget(limit, patience=patience)
    asker = Asker(client, PeerRequests(Headers(), None), budget, silence=silence)
    yield Peers(MemoryNetwork(), budget, asker, History())
    await client.aclose()
    assert budget.held == 0


async def give(exchange: Exchange, body: bytes = BODY) -> None:
    await exchange.respond(200, Headers(), body)


async def break_off(exchange: Exchange) -> None:
    sink = await exchange.start(200, Headers(), len(BODY))
    await sink.write(BODY[:5000])


async def fall_silent(exchange: Exchange) -> None:
    await break_off(exchange)
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (partial(give, body=b"x" * len(BODY)), FailureKind.DIGEST),
        (break_off, FailureKind.ENDED),
        (fall_silent, FailureKind.STALLED),
    ],
    ids=["wrong", "cut", "silent"],
)
async def test_a_failed_attempt_holds_nothing(handler: Any, kind: FailureKind) -> None:
    async with peers() as node, fake_provider(node.network, [KEY], handler) as host:
        with pytest.raises(AttemptFailed) as caught:
            await node.asker.ask(Provider(host, host, PORT), WANTED)
        assert caught.value.kind is kind
        assert node.budget.held == 0


@pytest.mark.parametrize(("size", "aside"), [(LARGE_MANIFEST_SIZE - 100, False), (LARGE_MANIFEST_SIZE + 100, True)])
async def test_a_large_manifest_is_not_read_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, size: int, aside: bool
) -> None:
    threads: list[int] = []

    def check(*arguments: Any) -> None:
        threads.append(threading.get_ident())
        check_body(*arguments)

    monkeypatch.setattr(attempt, "check_body", check)
    body = json.dumps({"mediaType": OCI_MANIFEST, "annotations": {"a": "a" * size}}).encode()
    target = ManifestTarget("docker.io", "library/debian", "1", None)
    key = Key("docker.io/library/debian:1")

    async def answer(exchange: Exchange) -> None:
        fields = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": str(Digest.of(body))}
        await exchange.respond(200, Headers.of(fields), body)

    async with peers() as node, fake_provider(node.network, [key], answer) as host:
        whole = await node.asker.ask(Provider(host, host, PORT), Wanted(target))
        assert isinstance(whole, Whole)
        assert whole.body == body
        whole.close()
    assert [thread != threading.get_ident() for thread in threads] == [aside]


async def test_a_cancelled_attempt_holds_nothing() -> None:
    async with (
        peers(silence=60) as node,
        fake_provider(node.network, [KEY], fall_silent) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(node.asker.ask, Provider(host, host, PORT), WANTED)
        with trio.fail_after(10):
            await until(lambda: node.budget.held == len(BODY))
        nursery.cancel_scope.cancel()


async def test_a_part_is_read_whole_and_counts_as_that() -> None:
    async def answer(exchange: Exchange) -> None:
        if "Range" not in exchange.request.headers:
            await give(exchange)
            return
        await exchange.respond(206, Headers.of({"Content-Range": f"bytes 5-9/{len(BODY)}"}), BODY[5:10])

    async with peers() as node, fake_provider(node.network, [KEY], answer) as host:
        whole = await node.asker.ask(Provider(host, host, PORT), Wanted(WANTED.target, RangeRequest(5, 9)))
        assert isinstance(whole, Whole)
        assert (whole.span, node.budget.held) == (Span(5, 10), len(BODY))
        whole.close()


async def test_of_hedged_attempts_only_the_winner_holds_its_body() -> None:
    asked = 0

    async def first_falls_silent(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        await (fall_silent if asked == 1 else give)(exchange)

    async with (
        peers(silence=60) as node,
        fake_provider(node.network, [KEY], first_falls_silent),
        fake_provider(node.network, [KEY], first_falls_silent),
    ):
        outcome = await node.lookup().run(KEY, WANTED)
        assert isinstance(outcome, Found)
        assert isinstance(outcome.answer, Whole)
        assert (asked, node.budget.held) == (2, len(BODY))
        outcome.answer.close()


async def test_without_room_the_race_ends_and_no_peer_is_blamed() -> None:
    async with (
        peers(limit=len(BODY) + 10) as node,
        fake_provider(node.network, [KEY], give) as one,
        fake_provider(node.network, [KEY], give) as other,
    ):
        lease = await node.budget.take(11)
        outcome = await node.lookup().run(KEY, WANTED)
        assert isinstance(outcome, NotFound)
        assert outcome.reason == NO_ROOM
        assert not any(node.history.is_suspect(host, trio.current_time()) for host in (one, other))
        lease.release()


async def test_a_race_that_is_cancelled_as_it_is_won_holds_nothing() -> None:
    class CancellingRouter:
        """Names one provider; the request is cancelled while the race is being wound up."""

        @asynccontextmanager
        async def find_providers(self, key: Key) -> AsyncIterator[AsyncIterator[Provider]]:
            async def named() -> AsyncIterator[Provider]:
                yield Provider(host, host, PORT)

            try:
                yield named()
                await trio.sleep_forever()
            finally:
                assert node.budget.held == len(BODY)
                scope.cancel()

    async with peers() as node, fake_provider(node.network, [KEY], give) as host:
        with trio.CancelScope() as scope:
            await node.lookup(cast(Router, CancellingRouter())).run(KEY, WANTED)
        assert scope.cancelled_caught
        assert node.budget.held == 0


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "tree"])
async def test_whoever_has_found_no_room_asks_nobody_else_and_goes_upstream(committed: bool) -> None:
    """A small body that a provider has, or somebody of the tree: either asks the other where the one has failed."""
    told: list[Digest] = []
    asked: list[str] = []

    async def answer_small(target: object, digest: Digest, failed: set[str]) -> Whole | None:
        asked.append("tree")
        raise NoRoom

    async def answer(exchange: Exchange) -> None:
        asked.append("provider")
        await give(exchange)

    follower = SimpleNamespace(
        fits=lambda *_, **__: True,
        holding=lambda digest: nullcontext(),
        is_small=lambda *_: True,
        answer_small=answer_small,
        goes_upstream=told.append,
    )
    provided = [KEY] if committed else []
    async with peers(limit=len(BODY) - 1) as node, fake_provider(node.network, provided, answer):
        mirror = Mirror(
            node.lookup(),
            node.history,
            GiveUps(),
            ignoring(),
            cast(
                Verdicts,
                SimpleNamespace(
                    asked_from_start=lambda _: None, banned=lambda _: frozenset(), doubts=lambda _: False
                ),
            ),
            cast(SecondLook, None),
            stall_timeout=1,
            follower=cast(Any, follower),
        )
        exchange = SimpleNamespace(request=SimpleNamespace(method="GET"), started=False)
        trace = await mirror.answer(cast(Exchange, exchange), KEY, WANTED.target, None)
    assert (trace.reason, asked, told) == (NO_ROOM, ["provider" if committed else "tree"], [DIGEST])
