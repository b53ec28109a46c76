"""One response to containerd that is fed from the tree: SourceChoice decides, this does the I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from peili.beat import next_beat
from peili.follow.failed_sources import SourceFailure
from peili.follow.message import Answer, Ask, Keep, Source
from peili.follow.poison import Poison
from peili.follow.settings import FollowSettings
from peili.follow.slots import Slots, Verdict
from peili.follow.source_choice import SourceChoice
from peili.follow.steps import GoUpstream, JoinNow, RenewNow, Stay, Take
from peili.http.errors import SinkClosed, SourceFailed
from peili.http.message import Headers
from peili.http.server import Exchange, Sink
from peili.mirror.failure import FailureKind
from peili.mirror.growing_source import GrowingStream, SourceAsker, SourceRefused
from peili.mirror.keeper import FollowObserver
from peili.mirror.search import Search
from peili.mirror.second_look import look_at
from peili.mirror.source_race import SourceRace, Sources
from peili.oci.descriptor import Descriptor
from peili.oci.distribution import BlobTarget, content_headers
from peili.oci.media_types import OCTET_STREAM
from peili.oci.ranges import Span
from peili.routing.protocol import Coordination

# The relay's own limit; SourceChoice judges stalls, because it knows how deep in the tree this node is.
_RELAY_STALL = 60.0
# The first bytes are looked for this often, so that those who wait for a slot learn of them, in seconds.
_LOOK_FIRST = 0.2
# The same later, about, for all responses in one turn. When the last bytes came is known exactly, and a stall is
# looked for in time besides (Stay.until); at this rate there is mostly no need to.
_LOOK = 1 / 3
# The same while containerd takes no byte: nothing stalls then, and there may be a thousand such.
_LOOK_FULL = 2.0


@dataclass(frozen=True, slots=True)
class Tree:
    """What all held responses of a node share."""

    coordination: Coordination
    asker: SourceAsker
    settings: FollowSettings
    slots: Slots
    poison: Poison
    observer: FollowObserver
    sources: Sources


@dataclass(slots=True)
class Ending:
    """How a held response ended. `reason` is empty when every byte went out."""

    reason: str = ""
    requeue: bool = False  # containerd is to ask again at once: not a give-up
    leading: bool = False  # the coordinators said so
    unprovided: bool = False  # and that nobody has all of it
    sources: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)  # who did not give what it was asked for, by the router's names
    attempts: int = 0


class HeldResponse:
    """Answers one request for a blob, from `offset` to the end, with bytes of peers."""

    def __init__(
        self,
        tree: Tree,
        exchange: Exchange,
        target: BlobTarget,
        key: bytes,
        choice: SourceChoice,
        search: Search,
        *,
        offset: int,
        received: bool,
    ) -> None:
        """`search`: who has all of it. `received`: containerd writes it, and judges it."""
        self._received = received
        self._tree = tree
        self._exchange = exchange
        self._target = target
        self._key = key
        self._choice = choice
        self._search = search
        self._beside = 0  # how many of those that were found the choice, or a race, has been given
        self._unnamed: set[bytes] = set()  # sources that are asked though the coordinators did not name them
        self._first = offset
        self._sink: Sink | None = None
        self._total = 0
        self._relayed: Source | None = None  # who is relayed now
        self._stream: GrowingStream | None = None
        self._relay_ended = trio.Event()
        self._changed = trio.Event()
        self._leaving = False
        self._gone: SinkClosed | None = None
        self._ending = Ending()
        self._hold = 0
        self._nursery: trio.Nursery | None = None
        self._look = _LOOK_FIRST

    async def run(self) -> Ending:
        """Feed the response until it is whole, or nobody can. Raise SinkClosed."""
        self._hold = self._tree.slots.hold(self._key, trio.current_time())
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while await self._advance(nursery):
                    pass
                nursery.cancel_scope.cancel()
        finally:
            self._tree.slots.end(self._hold)
            if self._stream is not None:
                await self._stream.response.aclose()
        if self._gone is not None:
            if self._sink is None or self._sink.remaining:
                self._tree.poison.interrupted(self._key)  # whoever leaves in the middle has judged nothing
            raise self._gone
        return self._ending

    async def _advance(self, nursery: trio.Nursery) -> bool:
        """One step; False at the end."""
        now = trio.current_time()
        self._note_progress(now)
        if self._gone is not None or (self._sink is not None and self._sink.remaining == 0):
            return False
        step = self._choice.next_step(now)
        await self._leave_former_source()
        match step:
            case GoUpstream(leading, reason, unprovided):
                self._ending.leading, self._ending.reason = leading, reason
                self._ending.unprovided = unprovided
                return False
            case Take(source, unnamed):
                (self._unnamed.add if unnamed else self._unnamed.discard)(source.peer.id)
                await self._take(source, nursery)
            case JoinNow(join):
                nursery.start_soon(self._ask, join)
            case RenewNow(renew):
                nursery.start_soon(self._ask, renew)
            case Stay(until):
                return await self._stay(until, now)
        return True

    async def _stay(self, until: float, now: float) -> bool:
        verdict = self._tree.slots.verdict(self._hold, now)
        if verdict is not Verdict.HOLD:
            self._ending.reason = "slots"
            self._ending.requeue = verdict is Verdict.REQUEUE and await self._has_head()
            return False
        look = next_beat(now, _LOOK) if self._look == _LOOK else now + self._look
        with trio.move_on_at(min(until, look)):
            await self._changed.wait()
        self._changed = trio.Event()
        return True

    def _note_progress(self, now: float) -> None:
        if self._sink is None:
            return
        offset = self._total - self._sink.remaining
        grown = offset > self._first
        if grown:
            self._tree.slots.grew(self._hold)
        self._choice.grew(offset, self._sink.moved_at)
        full = self._relayed is not None and self._sink.is_full()
        if full or self._look == _LOOK_FULL:  # it was full until a moment ago, and what is there has yet to flow
            self._choice.excused(now)
        self._look = _LOOK_FULL if full else _LOOK if grown else _LOOK_FIRST

    async def _ask(self, ask: Ask) -> None:
        answer: Answer | None = await self._tree.coordination.ask(ask)
        self._tree.observer.told(ask, answer)
        now = trio.current_time()
        if answer is None and self._choice.source is None and (source := self._found_beside(now)) is not None:
            self._choice.found(source)
        self._choice.answered(answer, now)
        # Where nothing changes, the next look is early enough.
        if not isinstance(answer, Keep) or self._choice.source is None or answer.milliseconds < 1000 * self._look:
            self._changed.set()

    async def _leave_former_source(self) -> None:
        """Where the choice has left a source that is still relayed: end it, at an exact byte."""
        source = self._choice.source
        if self._relayed is None or self._stream is None:
            return
        if source is None or source.peer.id != self._relayed.peer.id:
            await self._leave()

    async def _leave(self) -> None:
        if self._stream is not None:
            self._leaving = True
            self._stream.response.source.abort()
            await self._relay_ended.wait()
            self._leaving = False

    async def _take(self, source: Source, nursery: trio.Nursery) -> None:
        """Change to this source, if it agrees: the present one is left only then, at an exact byte."""
        asked_at, stream = self._offset, await self._ask_source(source)
        if stream is None:
            return
        source = stream.source
        await self._leave()
        if self._offset != asked_at:
            await stream.response.aclose()
            stream = await self._ask_source(source, alone=True)
        if stream is None:
            return
        self._stream = stream
        if self._sink is None and not await self._start(stream.total):
            return
        if self._ending.sources:
            self._tree.sources.observer.resumed()
        self._choice.taken(source, trio.current_time(), unnamed=source.peer.id in self._unnamed)
        self._ending.sources.append(f"{source.peer.host}:{source.peer.port}")
        self._tree.observer.following(source.depth + 1)
        self._relayed, self._relay_ended = source, trio.Event()
        nursery.start_soon(self._relay, stream, self._relay_ended)

    @property
    def _offset(self) -> int:
        """The next byte that containerd is to get."""
        return self._total - self._sink.remaining if self._sink is not None else self._first

    async def _ask_source(self, source: Source, *, alone: bool = False) -> GrowingStream | None:
        """The source's bytes from our offset on, or another's where it is slow, unless `alone`.

        None where nobody gives them, which the choice is told.
        """
        if self._tree.sources.is_suspect(source, trio.current_time()):
            self._failed(source, SourceFailure.STALLED)
            return None
        if self._choice.verified_only:
            alone = True
            if not await self._stands_a_look(source):
                return None
        another = (lambda: None) if alone else self._another
        race = SourceRace(self._ask_for_stream, another, self._refused, self._leaves, self._tree.sources)
        stream = await race.run(source)
        if stream is not None and self._total not in (0, stream.total):
            await stream.response.aclose()
            self._failed(stream.source, SourceFailure.BROKEN)
            return None
        return stream

    async def _stands_a_look(self, source: Source) -> bool:
        """After wrong bytes of this digest nobody's word is enough."""
        tree = self._tree
        try:
            await look_at(tree.asker, source, self._target, stall_timeout=tree.settings.stall)
        except SourceRefused as error:
            if error.kind is FailureKind.DIGEST:
                tree.poison.found_wrong(self._key, source.peer.id, trio.current_time())
            self._refused(source, error)
            return False
        return True

    async def _ask_for_stream(self, source: Source) -> GrowingStream:
        self._ending.attempts += 1
        unnamed = source.peer.id in self._unnamed
        return await self._tree.asker.ask(source, self._target, self._offset, unless_sending=unnamed)

    def _leaves(self) -> bool:
        return self._choice.leaves

    def _another(self) -> Source | None:
        now = trio.current_time()
        while (source := self._choice.alternative(now)) is not None:
            if not self._tree.sources.is_suspect(source, now):
                return source
        join = self._choice.join_beside(now)
        if join is not None and self._nursery is not None:
            self._nursery.start_soon(self._ask, join)
        return self._found_beside(now)

    def _found_beside(self, now: float) -> Source | None:
        """Whoever else has all of it: the coordinators may know of fewer."""
        self._search.go_on()
        while self._beside < len(self._search.found):
            source = self._tree.sources.source(self._search.found[self._beside])
            self._beside += 1
            if self._choice.may_ask(source, now) and not self._tree.sources.is_suspect(source, now):
                return source
        return None

    def _refused(self, source: Source, error: SourceRefused) -> None:
        if source.peer.id in self._unnamed and error.failure is SourceFailure.BUSY:
            self._choice.declined()
            return
        self._tree.sources.failed(source, error.kind, str(error), trio.current_time())
        self._failed(source, error.failure)

    def _failed(self, source: Source, failure: SourceFailure) -> None:
        self._choice.failed(source.peer.id, failure, trio.current_time())
        if failure in (SourceFailure.STALLED, SourceFailure.BROKEN):
            self._ending.failed.add(self._tree.sources.name_of(source))

    async def _has_head(self) -> bool:
        """Have the head go out, where our own ingest tells the size: a head without a body means ask again."""
        if self._sink is None and self._choice.total > self._first:
            await self._start(self._choice.total)
        return self._sink is not None

    async def _start(self, total: int) -> bool:
        """The head goes out at once: containerd waits for bytes with patience, for a head it need not."""
        self._total = total
        self._choice.know_total(total)
        span = Span(self._first, total)
        part = span if self._first else None
        descriptor = Descriptor(self._target.digest, OCTET_STREAM, total)
        headers = Headers.of(content_headers(descriptor, part))
        try:
            self._sink = await self._exchange.start(200 if part is None else 206, headers, span.length)
        except SinkClosed as error:
            self._gone = error
            return False
        return True

    async def _relay(self, stream: GrowingStream, ended: trio.Event) -> None:
        assert self._sink is not None
        before = self._sink.remaining
        peer_id = stream.source.peer.id
        try:
            await self._sink.relay(stream.response.source, self._sink.remaining, stall_timeout=_RELAY_STALL)
        except SourceFailed as error:
            now = trio.current_time()
            self._choice.grew(self._total - self._sink.remaining, now)
            if self._choice.source is not None and self._choice.source.peer.id == peer_id:
                # A source that we left for a better one has done nothing wrong.
                self._choice.failed(peer_id, SourceFailure.BUSY if self._leaving else SourceFailure.ENDED, now)
                if not self._leaving:
                    self._blame(stream, FailureKind.ENDED, str(error), now)
            elif self._leaving:
                self._blame(stream, FailureKind.STALLED, "no bytes for the stall limit, or next to none", now)
        except SinkClosed as error:
            self._gone = error
        finally:
            moved = before - self._sink.remaining
            if moved and self._received:
                self._tree.poison.relayed(self._key, peer_id, trio.current_time(), committed=stream.committed)
            if not stream.committed:
                self._tree.observer.followed_bytes(moved)
            if self._sink.remaining == 0:
                self._tree.poison.completed(self._key)
            await stream.response.aclose()
            self._relayed = self._stream = None
            ended.set()
            self._changed.set()

    def _blame(self, stream: GrowingStream, kind: FailureKind, text: str, now: float) -> None:
        """Who has all of it and does not send it is at fault; who was still receiving may have waited itself."""
        if stream.committed:
            self._tree.sources.failed(stream.source, kind, text, now)
            self._ending.failed.add(self._tree.sources.name_of(stream.source))
        else:
            self._tree.sources.observer.attempt_failed(self._tree.sources.provider(stream.source), kind, text)
