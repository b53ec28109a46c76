"""A source that is slow gets company, and who is slow is not waited for where nothing depends on it any more."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from peili.follow.failed_sources import SourceFailure
from peili.follow.message import Peer, Source
from peili.mirror.failure import FailureKind
from peili.mirror.growing_source import GrowingStream, SourceRefused
from peili.mirror.history import UNKNOWN_HEDGE, History
from peili.mirror.peer_ids import PeerIds
from peili.mirror.source_race import SourceRace, Sources

NEVER = 1e9


def source(name: str) -> Source:
    return Source(Peer(name.encode(), "10.0.0.1", 5000), 0, 0, committed=True)


class Story:
    """Sources that answer after some seconds, or refuse then; `named`: who may be asked beside the first."""

    def __init__(self, seconds: dict[str, float], *, refusing: Iterable[str] = (), named: str = "") -> None:
        self.seconds, self.refusing, self.named = seconds, set(refusing), list(named)
        self.asked: list[str] = []
        self.closed: list[str] = []
        self.refused: list[str] = []
        self.hedges = 0
        self.over = False

    async def ask(self, asked: Source) -> GrowingStream:
        name = asked.peer.id.decode()
        self.asked.append(name)
        await trio.sleep(self.seconds[name])
        if name in self.refusing:
            raise SourceRefused(SourceFailure.BROKEN, FailureKind.NOT_FOUND, "gone")

        async def aclose() -> None:
            self.closed.append(name)

        return GrowingStream(asked, cast(Any, SimpleNamespace(aclose=aclose)), 1, committed=True)

    def another(self) -> Source | None:
        return source(self.named.pop(0)) if self.named else None

    def hedged(self) -> None:
        self.hedges += 1

    async def play(self) -> str:
        observer = cast(Any, SimpleNamespace(hedged=self.hedged))
        sources = Sources(History(), observer, PeerIds())

        def refused(asked: Source, error: SourceRefused) -> None:
            self.refused.append(asked.peer.id.decode())

        race = SourceRace(self.ask, self.another, refused, lambda: self.over, sources)
        stream = await race.run(source("a"))
        return "" if stream is None else stream.source.peer.id.decode()


async def test_the_first_that_is_asked_is_asked_alone_where_it_is_fast(autojump_clock: MockClock) -> None:
    story = Story({"a": UNKNOWN_HEDGE / 2}, named="b")
    assert (await story.play(), story.asked, story.hedges) == ("a", ["a"], 0)


@pytest.mark.parametrize("frozen", ["a", "ab"])
async def test_others_are_asked_beside_those_that_are_slow(autojump_clock: MockClock, frozen: str) -> None:
    story = Story({name: NEVER if name in frozen else 0.001 for name in "abc"}, named="bc")
    started = trio.current_time()
    assert await story.play() in "bc"
    assert story.asked == list("abc"[: len(frozen) + 1])
    assert story.hedges == len(frozen)
    assert trio.current_time() - started < 3 * UNKNOWN_HEDGE


async def test_one_that_is_named_late_is_asked_then(autojump_clock: MockClock) -> None:
    story = Story({"a": NEVER, "b": 0.001})
    async with trio.open_nursery() as nursery:

        async def name_late() -> None:
            await trio.sleep(10 * UNKNOWN_HEDGE)
            story.named.append("b")

        nursery.start_soon(name_late)
        assert await story.play() == "b"


async def test_all_refuse_and_all_are_told_of(autojump_clock: MockClock) -> None:
    story = Story({"a": 0.2, "b": 0.001}, refusing="ab", named="b")
    assert (await story.play(), sorted(story.refused)) == ("", ["a", "b"])


async def test_the_slow_one_is_left_where_the_pull_is_over(autojump_clock: MockClock) -> None:
    story = Story({"a": NEVER})
    story.over = True
    with trio.fail_after(1):
        assert await story.play() == ""


async def test_the_stream_of_who_answers_at_the_same_time_is_closed(autojump_clock: MockClock) -> None:
    story = Story({"a": 2 * UNKNOWN_HEDGE, "b": UNKNOWN_HEDGE}, named="b")
    winner = await story.play()
    assert story.closed == [name for name in "ab" if name != winner]
