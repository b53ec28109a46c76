"""The keeper watches what containerd writes, and nothing for those that ask without writing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from peili.follow.message import Leave, Outcome
from peili.follow.poison import Poison
from peili.follow.settings import FollowSettings
from peili.follow.slots import Slots
from peili.mirror.answer import SMALL_BLOB_SIZE
from peili.mirror.keeper import Keeper, follow_key
from peili.oci.digest import Digest
from peili.routing.protocol import Coordination
from peili.store.protocol import Store

DIGEST = Digest.of(b"wanted")


class FakeBlob:
    """An ingest that containerd has just made."""

    total = 100

    def __init__(self) -> None:
        self.closed = False
        self.gone = False
        self.was_committed = False
        self.written = 0

    def size(self) -> int:
        return self.written

    def ended(self) -> bool:
        return False

    def vanished(self) -> bool:
        return self.gone

    def committed(self) -> bool:
        return False

    def thrown_away(self) -> bool:
        return self.gone and not self.was_committed

    def watch(self) -> None:
        """Nothing is missed."""

    async def wait(self, size: int, timeout: float) -> None:
        with trio.move_on_after(timeout):
            while self.written <= size:
                await trio.sleep(0.001)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeBlob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeStore:
    """Counts how often it is looked into."""

    def __init__(self, written: bool) -> None:
        self.written = written
        self.blobs: list[FakeBlob] = []
        self.looks = 0

    def growing(self, digest: Digest) -> FakeBlob | None:
        self.looks += 1
        if self.written:
            self.blobs.append(FakeBlob())
            return self.blobs[-1]
        return None

    def descriptor(self, digest: Digest) -> None:
        return None


class FakeCoordination:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.heard: list[tuple[float, Any]] = []

    async def ask(self, message: Any) -> None:
        self.asked.append(message)
        self.heard.append((trio.current_time(), message))


class Silent:
    """An observer."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def keeper_of(store: FakeStore, coordination: FakeCoordination, poison: Poison | None = None) -> Keeper:
    settings = FollowSettings()
    return Keeper(
        cast(Store, store),
        cast(Coordination, coordination),
        settings,
        poison or Poison(),
        Slots(settings),
        Silent(),
    )


@pytest.mark.parametrize("how", ["lead", "finish"])
async def test_who_asks_without_writing_is_not_watched(autojump_clock: MockClock, how: str) -> None:
    store, coordination = FakeStore(written=False), FakeCoordination()
    keeper = keeper_of(store, coordination)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        getattr(keeper, how)(DIGEST)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    assert store.looks == 1
    assert keeper.leads == 0
    assert coordination.asked == ([Leave(follow_key(DIGEST), Outcome.GAVE_UP)] if how == "lead" else [])


async def test_what_is_given_up_at_once_is_looked_at_once(autojump_clock: MockClock) -> None:
    store, coordination = FakeStore(written=True), FakeCoordination()
    keeper = keeper_of(store, coordination)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        keeper.lead(DIGEST)
        store.blobs[0].gone, store.written = True, False
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    assert store.looks == 1
    assert coordination.asked == [Leave(follow_key(DIGEST), Outcome.VANISHED)]


async def test_what_containerd_writes_is_led(autojump_clock: MockClock) -> None:
    store = FakeStore(written=True)
    keeper = keeper_of(store, FakeCoordination())
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        keeper.lead(DIGEST)
        await trio.testing.wait_all_tasks_blocked()
        assert keeper.leads == 1
        nursery.cancel_scope.cancel()

    assert all(blob.closed for blob in store.blobs)


@pytest.mark.parametrize(
    ("total", "unasked", "told"),
    [(100, False, [(0.05, 50)]), (10 * SMALL_BLOB_SIZE, False, [(0.0, 50)]), (100, True, [(0.02, 50)])],
    ids=["small", "large", "unasked"],
)
async def test_when_the_coordinators_hear_of_a_lead(
    autojump_clock: MockClock, total: int, unasked: bool, told: list[tuple[float, int]]
) -> None:
    """Of first bytes at once where others can take them; of what is small when it is committed, or late."""
    store, coordination = FakeStore(written=True), FakeCoordination()
    keeper = keeper_of(store, coordination)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        keeper.lead(DIGEST, unasked=unasked)
        started, store.blobs[0].total = trio.current_time(), total
        await trio.testing.wait_all_tasks_blocked()
        store.blobs[0].written = 50
        await trio.sleep(FollowSettings().renew_interval - 0.1)
        nursery.cancel_scope.cancel()

    heard = [(round(at - started, 2), message.offset) for at, message in coordination.heard]
    assert heard == told


@pytest.mark.parametrize("written", [99, 100])
async def test_only_who_sent_all_that_containerd_wanted_is_judged(autojump_clock: MockClock, written: int) -> None:
    """Upstream gave the rest of what a peer began, or broke off: then containerd has not looked at the bytes."""
    store, poison, key = FakeStore(written=True), Poison(), follow_key(DIGEST)
    keeper = keeper_of(store, FakeCoordination(), poison)
    poison.relayed(key, b"peer", 0.0, committed=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        keeper.lead(DIGEST)
        store.blobs[0].written = written
        await trio.sleep(1)
        store.blobs[0].gone = True
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    banned = poison.asked(key, 0, trio.current_time())
    assert banned == ({b"peer"} if written == FakeBlob.total else frozenset())


@pytest.mark.parametrize(
    ("committed", "left", "banned"),
    [(True, 100, False), (False, 100, True), (False, 10, True)],
    ids=["removed after the commit", "thrown away", "begun anew"],
)
async def test_only_a_commit_takes_back_a_ban(
    autojump_clock: MockClock, committed: bool, left: int, banned: bool
) -> None:
    store, poison, key = FakeStore(written=True), Poison(), follow_key(DIGEST)
    poison.relayed(key, b"peer", 0.0, committed=False)
    assert poison.asked(key, 0, 0.0) == {b"peer"}
    keeper = keeper_of(store, FakeCoordination(), poison)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        keeper.finish(DIGEST)
        (blob,) = store.blobs
        blob.written = blob.total
        await trio.sleep(1)
        blob.written, blob.was_committed, blob.gone = left, committed, left == blob.total
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert (poison.banned(key, 61.0) == {b"peer"}) is banned
