"""Small content that a peer is known to have is asked of that peer, and the coordinators are left alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from peili.follow.message import Lead
from peili.follow.steps import GoUpstream
from peili.mirror.attempt import Whole
from peili.mirror.held import Ending, HeldResponse
from peili.mirror.led_images import LedImages
from peili.mirror.lookup import Found, Lookup
from peili.mirror.mirror import Mirror
from peili.mirror.race import RaceLimits
from peili.mirror.search import HEAD_START, Search
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ContentTarget, ManifestTarget
from peili.oci.key import Key
from peili.oci.media_types import OCTET_STREAM
from peili.oci.ranges import Span
from peili.routing.protocol import Provider

DIGEST = Digest.of(b"content")
BLOB = BlobTarget(None, "a", DIGEST)


class Story:
    """A mirror whose parts only say what they are asked for."""

    def __init__(self, *, small: bool, known: bool, committed_answers: bool) -> None:
        self.asked: list[str] = []
        self.known = known
        self.unprovided = False
        self.committed_answers = committed_answers
        self.exchange = SimpleNamespace(started=False, request=SimpleNamespace(method="GET"))
        self.mirror = object.__new__(Mirror)
        stub = cast(Any, self.mirror)
        stub._follower = SimpleNamespace(
            fits=lambda *_, head_only: True,
            holding=lambda digest: nullcontext(),
            is_small=lambda target, digest: small,
            goes_elsewhere=lambda digest: self.asked.append("withdraw"),
            goes_upstream=lambda digest, unasked=False: self.asked.append("lead" if unasked else "upstream"),
        )
        stub._giveups = SimpleNamespace(contains=lambda *_, from_start: False)
        stub._lookup = SimpleNamespace(known=self._known, name_first=self._name_first, limits=RaceLimits(1.0))
        stub._led_images = LedImages()
        stub._answer_committed = self._answer_committed
        stub._answer_from_tree = self._answer_from_tree

    async def _answer_committed(self, exchange: Any, *_: Any, known: tuple[str, ...] = ()) -> None:
        self.asked += known or ["anybody"]
        exchange.started = self.committed_answers

    async def _answer_from_tree(self, *parts: Any, small: bool) -> bool:
        self.asked.append("coordinators")
        parts[-1].leading, parts[-1].unprovided = True, self.unprovided
        return False

    def _known(self, key: Key) -> list[str]:
        return ["holder"] if self.known else []

    async def _name_first(self, key: Key, named: Callable[[Provider], None]) -> None:
        """Nobody is found."""
        self.asked.append("search")

    def ask_tree(self, **answers: object) -> None:
        """The mirror's own way to the tree, whose follower has these answers."""
        stub = cast(Any, self.mirror)
        stub._answer_from_tree = partial(Mirror._answer_from_tree, self.mirror)
        stub._follower.__dict__.update(answers)

    async def play(self, target: ContentTarget = BLOB) -> list[str]:
        await self.mirror.answer(cast(Any, self.exchange), Key(str(DIGEST)), target, None)
        return self.asked


@pytest.mark.parametrize(
    ("small", "known", "answers", "asked"),
    [
        (True, True, True, ["holder"]),
        (True, True, False, ["holder", "coordinators", "anybody", "upstream"]),
        (True, False, True, ["coordinators", "search", "upstream"]),
        (False, True, True, ["coordinators", "anybody", "withdraw"]),
    ],
    ids=["known", "known but gone", "unknown", "large"],
)
async def test_who_is_asked(small: bool, known: bool, answers: bool, asked: Collection[str]) -> None:
    assert await Story(small=small, known=known, committed_answers=answers).play() == asked


async def test_what_the_tree_gives_after_the_known_holder_failed_is_a_hit_for_the_log() -> None:
    story = Story(small=True, known=True, committed_answers=False)
    body, released = b"content", []
    whole = Whole(
        Provider("peer", "10.0.0.1", 5000),
        Descriptor(DIGEST, OCTET_STREAM, len(body)),
        Span(0, len(body)),
        body,
        cast(Any, SimpleNamespace(release=lambda: released.append(True))),
    )

    async def failed(*parts: Any, known: object = ()) -> None:
        parts[4].reason = "no_provider"

    async def found(*_: object) -> Found:
        return Found(whole, 1, 0.0)

    async def respond(status: int, headers: object, sent: memoryview) -> None:
        assert (status, bytes(sent)) == (200, body)
        story.exchange.started = True

    stub = cast(Any, story.mirror)
    stub._answer_committed = failed
    story.ask_tree(answer_small=found)
    story.exchange.respond = respond
    trace = await story.mirror.answer(cast(Any, story.exchange), Key(str(DIGEST)), BLOB, None)
    assert (trace.reason, trace.providers, released) == ("", ["10.0.0.1:5000"], [True])


async def test_manifest_and_config_that_follow_a_led_index_are_led_without_a_question() -> None:
    story = Story(small=True, known=False, committed_answers=False)
    manifest = ManifestTarget(None, "a", None, DIGEST)
    assert await story.play(manifest) == ["coordinators", "search", "upstream"]
    story.asked.clear()
    assert await story.play(manifest) == ["lead"]
    assert await story.play() == ["lead", "lead"]
    story.asked.clear()
    assert await story.play() == ["coordinators", "search", "upstream"], "its layers may be those of other images"


async def test_a_large_blob_is_always_asked_for() -> None:
    story = Story(small=False, known=False, committed_answers=False)
    cast(Any, story.mirror)._led_images.remember(ManifestTarget(None, "a", None, DIGEST), trio.current_time())
    assert await story.play() == ["coordinators", "search", "upstream"]


@pytest.mark.parametrize("small", [True, False])
async def test_nobody_else_is_asked_where_the_coordinators_know_that_nobody_has_it(small: bool) -> None:
    story = Story(small=small, known=False, committed_answers=False)
    story.unprovided = True
    assert await story.play() == ["coordinators", "upstream"]


@pytest.mark.parametrize(
    ("small", "asked"), [(True, ["holder", "coordinators", "anybody"]), (False, ["coordinators", "anybody"])]
)
async def test_who_is_known_to_have_it_is_asked_though_the_coordinators_know_of_nobody(
    small: bool, asked: list[str]
) -> None:
    story = Story(small=small, known=True, committed_answers=False)
    story.unprovided = True
    assert await story.play() == [*asked, "upstream"]


async def test_what_the_coordinators_say_of_a_layer_reaches_the_mirror() -> None:
    choice = SimpleNamespace(
        next_step=lambda now: GoUpstream(leading=True, reason="lead", unprovided=True), source=None
    )
    held = object.__new__(HeldResponse)
    stub = cast(Any, held)
    stub._choice, stub._ending = choice, Ending()
    stub._sink = stub._gone = stub._relayed = stub._stream = None
    async with trio.open_nursery() as nursery:
        assert not await held._advance(nursery)
    assert stub._ending == Ending(reason="lead", leading=True, unprovided=True)

    async def answer_large(*_: object) -> Ending:
        return cast(Ending, stub._ending)

    story = Story(small=False, known=False, committed_answers=False)
    story.ask_tree(answer_large=answer_large)
    assert await story.play() == ["upstream"]


async def test_what_the_coordinators_say_of_a_manifest_reaches_the_mirror() -> None:
    async def answer_small(*_: object) -> Lead:
        return Lead(3000, unprovided=True)

    story = Story(small=True, known=False, committed_answers=False)
    story.ask_tree(answer_small=answer_small)
    assert await story.play() == ["upstream"]


async def test_a_manifest_that_a_peer_has_is_not_led_because_the_index_was() -> None:
    story = Story(small=True, known=False, committed_answers=False)
    manifest = ManifestTarget(None, "a", None, DIGEST)
    await story.play(manifest)
    story.known = True
    story.asked.clear()
    assert await story.play(manifest) == ["holder", "coordinators", "anybody", "upstream"]


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


async def test_a_search_gives_the_coordinators_a_head_start_unless_it_is_wanted(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        search = Search(cast(Lookup, SlowLookup(0.0)), Key("k"), nursery)
        await trio.sleep(0.9 * HEAD_START)
        assert search.found == []
        await trio.sleep(0.2 * HEAD_START)
        assert [each.peer_id for each in search.found] == ["first"], "they are late"
        started = trio.current_time()
        assert await Search(cast(Lookup, SlowLookup(0.0)), Key("k"), nursery).found_anybody()
        assert trio.current_time() == started
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("before", "waited"), [(0.0, 0.02), (0.05, 0.01)], ids=["wanted at once", "begun before"])
async def test_a_search_that_just_began_has_more_time(
    autojump_clock: MockClock, before: float, waited: float
) -> None:
    async with trio.open_nursery() as nursery:
        search = Search(cast(Lookup, SlowLookup(0.5)), Key("k"), nursery)
        await trio.sleep(before)
        started = trio.current_time()
        assert not await search.found_anybody(0.01)
        assert trio.current_time() - started == pytest.approx(waited)
        nursery.cancel_scope.cancel()


async def test_a_search_for_what_is_known_asks_nobody_before_it_is_to(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        search = Search(cast(Lookup, SlowLookup(0.5)), Key("k"), nursery, [Provider("known", "host", 1)])
        assert await search.found_anybody()
        await trio.sleep(1.0)
        assert [each.peer_id for each in search.found] == ["known"]
        nursery.cancel_scope.cancel()
