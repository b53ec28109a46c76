"""Small content that a peer is known to have is asked of that peer, and the coordinators are left alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from peili.mirror.led_images import LedImages
from peili.mirror.lookup import Lookup
from peili.mirror.mirror import Mirror, Trace
from peili.mirror.race import RaceLimits
from peili.mirror.search import Search
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ContentTarget, ManifestTarget
from peili.oci.key import Key
from peili.routing.protocol import Provider

DIGEST = Digest.of(b"content")
BLOB = BlobTarget(None, "a", DIGEST)


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
        stub._led_images = LedImages()
        stub._answer_committed = self._answer_committed
        stub._answer_from_tree = self._answer_from_tree

    async def _answer_committed(self, exchange: Any, *_: Any) -> None:
        self.asked.append("provider")
        exchange.started = self.committed_answers

    async def _answer_from_tree(self, *parts: Any) -> bool:
        self.asked.append("coordinators")
        parts[-1].leading = True
        return False

    @property
    def found(self) -> list[str]:
        return ["holder"] if self.known else []

    async def found_anybody(self, patience: float) -> bool:
        return self.known

    async def play(self, target: ContentTarget = BLOB) -> list[str]:
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


async def test_the_manifest_that_follows_a_led_index_is_led_without_a_question() -> None:
    story, manifest = (
        Story(small=True, known=False, committed_answers=False),
        ManifestTarget(None, "a", None, DIGEST),
    )
    assert await story.play(manifest) == ["coordinators", "upstream"]
    assert await story.play(manifest) == ["coordinators", "upstream", "upstream"]
    story.asked.clear()
    assert await story.play() == ["coordinators", "upstream"], "its layers may be those of other images"


async def test_a_manifest_that_a_peer_has_is_not_led_because_the_index_was() -> None:
    story = Story(small=True, known=False, committed_answers=False)
    manifest = ManifestTarget(None, "a", None, DIGEST)
    await story.play(manifest)
    story.known = True
    story.asked.clear()
    assert await story.play(manifest) == ["provider", "coordinators", "provider", "upstream"]


class SlowLookup:
    """Finds one after this many seconds, and another when it is to name all."""

    limits = RaceLimits(1.0)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def name_first(self, key: Key, named: Callable[[Provider], None]) -> None:
        await trio.sleep(self.seconds)
        named(Provider("first", "host", 1))

    async def name_all(self, key: Key, named: Callable[[Provider], None]) -> None:
        await self.name_first(key, named)
        named(Provider("second", "host", 1))


async def test_a_search_finds_the_first_and_all_when_it_is_to(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        search = Search(cast(Lookup, SlowLookup(0.5)), Key("k"), nursery)
        assert search.found == []
        assert await search.found_anybody()
        await trio.sleep(1.0)
        assert [each.peer_id for each in search.found] == ["first"]
        search.go_on()
        await trio.sleep(1.0)
        assert [each.peer_id for each in search.found] == ["first", "second"]
        nursery.cancel_scope.cancel()


async def test_a_search_for_what_is_known_asks_nobody_before_it_is_to(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        search = Search(cast(Lookup, SlowLookup(0.5)), Key("k"), nursery, [Provider("known", "host", 1)])
        assert await search.found_anybody()
        await trio.sleep(1.0)
        assert [each.peer_id for each in search.found] == ["known"]
        nursery.cancel_scope.cancel()
