"""Small content that a peer is known to have is asked of that peer, and the coordinators are left alone."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from peili.mirror.lookup import AT_ONCE, Lookup, Search
from peili.mirror.mirror import Mirror, Trace
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget
from peili.oci.key import Key

DIGEST = Digest.of(b"content")


class Story:
    """A mirror whose parts only say what they are asked for."""

    def __init__(self, *, small: bool, known: bool, committed_answers: bool) -> None:
        self.asked: list[str] = []
        self.known = known
        self.committed_answers = committed_answers
        self.exchange = SimpleNamespace(started=False)
        self.follower = SimpleNamespace(
            is_small=lambda target, digest: small,
            goes_elsewhere=lambda digest: self.asked.append("withdraw"),
            goes_upstream=lambda digest: self.asked.append("upstream"),
        )
        self.mirror = object.__new__(Mirror)
        stub = cast(Any, self.mirror)
        stub._answer_committed = self._answer_committed
        stub._answer_from_tree = self._answer_from_tree

    async def _answer_committed(self, exchange: Any, *_: Any) -> None:
        self.asked.append("provider")
        exchange.started = self.committed_answers

    async def _answer_from_tree(self, *_: Any) -> bool:
        self.asked.append("coordinators")
        return False

    async def found_at_once(self) -> bool:
        return self.known

    async def found_anybody(self) -> bool:
        return self.known

    async def play(self) -> list[str]:
        target = cast(BlobTarget, SimpleNamespace(digest=DIGEST))
        parts = cast(Any, (self.follower, self, self.exchange, Key(str(DIGEST)), DIGEST, target, None, Trace()))
        await self.mirror._answer_or_lead(*parts)
        return self.asked


@pytest.mark.parametrize(
    ("small", "known", "answers", "asked"),
    [
        (True, True, True, ["provider"]),
        (True, True, False, ["provider", "coordinators", "provider", "upstream"]),
        (True, False, True, ["coordinators", "upstream"]),
        (False, True, True, ["coordinators", "provider", "withdraw"]),
    ],
    ids=["known", "known but gone", "unknown", "large"],
)
async def test_who_is_asked(small: bool, known: bool, answers: bool, asked: Collection[str]) -> None:
    assert await Story(small=small, known=known, committed_answers=answers).play() == asked


class SlowLookup:
    """Finds somebody after this many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def is_provided(self, key: Key) -> bool:
        await trio.sleep(self.seconds)
        return True


@pytest.mark.parametrize(("seconds", "at_once"), [(0.0, True), (AT_ONCE / 2, True), (AT_ONCE * 2, False)])
async def test_at_once_is_without_asking_anybody(autojump_clock: MockClock, seconds: float, at_once: bool) -> None:
    async with trio.open_nursery() as nursery:
        search = Search(cast(Lookup, SlowLookup(seconds)), Key("k"), nursery)
        started = trio.current_time()
        assert await search.found_at_once() is at_once
        assert trio.current_time() - started <= AT_ONCE
        assert await search.found_anybody()
