"""The mirror: what this node lacks comes from its peers, or not at all (404, and containerd goes upstream)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from math import inf

import trio

from peili.follow.message import Lead
from peili.http.errors import SinkClosed, SourceEnded, SourceStalled
from peili.http.message import Headers
from peili.http.server import Exchange, Sink
from peili.mirror.attempt import Answer, Stream, Wanted, Whole, close
from peili.mirror.body_budget import NoRoom
from peili.mirror.failure import FailureKind
from peili.mirror.follower import Follower
from peili.mirror.giveup import GiveUps
from peili.mirror.history import History
from peili.mirror.led_images import LedImages
from peili.mirror.lookup import Found, Lookup, NotFound, Observer
from peili.mirror.race import NO_ROOM
from peili.mirror.search import Search
from peili.mirror.second_look import THROWN_AWAY, SecondLook
from peili.mirror.verdicts import Verdicts
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ContentTarget, content_headers
from peili.oci.key import Key
from peili.oci.ranges import RangeRequest, UnsatisfiableRange
from peili.routing.protocol import Provider

# Providers that may follow each other within one body; a cluster in which so many die in a row has other worries.
MAXIMUM_RESUMES = 8
# Seconds that a search is waited for after the coordinators said Lead, and twice that since it began: they are
# closest to the key and keep its records. Only nodes that do not answer make it much longer, and they give nothing.
LEAD_PATIENCE = 0.01
NO_PROVIDER = "no_provider"
BEYOND_END = "beyond_end"  # why nothing is sent though peers have it: the range begins beyond its end


@dataclass(slots=True)
class Trace:
    """What happened while one request was mirrored, for its log line. Times in seconds."""

    providers: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)  # peers at fault, by their ids: not asked again for this
    resolve_seconds: float = 0.0
    attempts: int = 0
    resumes: int = 0
    reason: str = ""  # of a miss or of a body that ended early
    leading: bool = False  # the coordinators said that this node is to fetch it
    unprovided: bool = False  # and that nobody has all of it
    size: int | None = None  # of the whole content, where the range asked for begins beyond its end


class Mirror:
    """Answers requests of this node's containerd with content of its peers."""

    def __init__(
        self,
        lookup: Lookup,
        history: History,
        giveups: GiveUps,
        observer: Observer,
        verdicts: Verdicts,
        second_look: SecondLook,
        *,
        stall_timeout: float,
        follower: Follower | None = None,
    ) -> None:
        """Without a follower only committed content is shared."""
        self._verdicts = verdicts
        self._second_look = second_look
        self._follower = follower
        self._lookup = lookup
        self._history = history
        self._giveups = giveups
        self._observer = observer
        self._stall_timeout = stall_timeout
        self._led_images = LedImages()

    async def answer(
        self, exchange: Exchange, key: Key, target: ContentTarget, wanted_range: RangeRequest | None
    ) -> Trace:
        """Answer with a peer's content; where nobody has it nothing is sent, and `exchange.started` stays False.

        The same where the range asked for begins beyond the end; then the trace tells the size.
        Raise SinkClosed when containerd goes away.
        """
        trace = Trace()
        if self._was_given_up(target.digest, wanted_range):
            trace.reason = "gave_up"
            return trace
        head_only = exchange.request.method == "HEAD"
        follower, digest = self._follower, target.digest
        if follower is None or digest is None or not follower.fits(target, wanted_range, head_only=head_only):
            try:
                await self._answer_committed(exchange, key, target, wanted_range, trace)
            except NoRoom:
                trace.reason = NO_ROOM
            return trace
        known = self._lookup.known(key)
        small = follower.is_small(target, digest)
        if small and not known and self._led_images.next_one(target, trio.current_time()):
            trace.reason = NO_PROVIDER
            follower.goes_upstream(digest, unasked=True)
            return trace
        gone: SinkClosed | None = None
        async with trio.open_nursery() as nursery:
            # Beside the question to the coordinators, where that takes longer than it mostly does.
            search = Search(self._lookup, key, nursery, known)
            try:
                with follower.holding(digest):
                    try:
                        await self._answer_or_lead(
                            follower, search, exchange, key, digest, target, wanted_range, trace, small=small
                        )
                    except NoRoom:
                        trace.reason = NO_ROOM
                        follower.goes_upstream(digest)
            except SinkClosed as error:  # raised below, because a nursery would wrap it
                gone = error
            nursery.cancel_scope.cancel()
        if gone is not None:
            raise gone
        return trace

    def _was_given_up(self, digest: Digest | None, wanted_range: RangeRequest | None) -> bool:
        from_start = wanted_range is None or wanted_range.first == 0
        now = trio.current_time()
        return digest is not None and self._giveups.contains(digest, now, from_start=from_start)

    async def _answer_or_lead(
        self,
        follower: Follower,
        search: Search,
        exchange: Exchange,
        key: Key,
        digest: Digest,
        target: ContentTarget,
        wanted_range: RangeRequest | None,
        trace: Trace,
        *,
        small: bool,
    ) -> None:
        if small and search.found:
            # It is committed somewhere, and too little to be worth a place in the tree: nobody else need be asked.
            await self._answer_committed(exchange, key, target, wanted_range, trace, known=search.found)
            if exchange.started or trace.size is not None:
                return
        if await self._answer_from_tree(
            follower, search, exchange, digest, target, wanted_range, trace, small=small
        ):
            return
        # Perhaps somebody has it whom the coordinators do not know.
        patience = LEAD_PATIENCE if trace.leading else inf
        if search.found or (not trace.unprovided and await search.found_anybody(patience)):
            await self._answer_committed(exchange, key, target, wanted_range, trace)
        else:
            trace.reason = trace.reason or NO_PROVIDER
            if trace.leading:
                self._led_images.remember(target, trio.current_time())
        if exchange.started:
            follower.goes_elsewhere(digest)
        else:
            follower.goes_upstream(digest)

    async def _answer_from_tree(
        self,
        follower: Follower,
        search: Search,
        exchange: Exchange,
        digest: Digest,
        target: ContentTarget,
        wanted_range: RangeRequest | None,
        trace: Trace,
        *,
        small: bool,
    ) -> bool:
        """Answer with what somebody is receiving or has; False where others are to be asked.

        Raise NoRoom.
        """
        if small:
            found = await follower.answer_small(target, digest, trace.failed)
            if isinstance(found, Lead):
                trace.leading, trace.unprovided = True, found.unprovided
            if not isinstance(found, Found):
                return False
            trace.attempts += found.attempts
            trace.providers.append(_address(found.answer))
            if isinstance(found.answer, Stream):  # its head says more than the ingest of our containerd
                await found.answer.response.aclose()
                return False
            trace.reason = ""  # of those that were asked before
            with closing(found.answer) as whole:
                try:
                    span = whole.span if wanted_range is None else wanted_range.resolve(whole.descriptor.size)
                except UnsatisfiableRange:
                    trace.reason, trace.size = BEYOND_END, whole.descriptor.size
                    return True
                await _send_whole(exchange, replace(whole, span=span), wanted_range)
            return True
        assert isinstance(target, BlobTarget)
        ending = await follower.answer_large(exchange, target, wanted_range, search)
        trace.failed |= ending.failed
        trace.providers += ending.sources
        trace.attempts += ending.attempts
        trace.resumes += max(len(ending.sources) - 1, 0)
        trace.reason, trace.leading, trace.unprovided = ending.reason, ending.leading, ending.unprovided
        if not exchange.started:
            return False
        if ending.requeue:
            follower.goes_elsewhere(digest)
        elif ending.reason:
            self._giveups.remember(digest, trio.current_time())
            follower.goes_upstream(digest)
        return True

    async def _answer_committed(
        self,
        exchange: Exchange,
        key: Key,
        target: ContentTarget,
        wanted_range: RangeRequest | None,
        trace: Trace,
        *,
        known: Sequence[Provider] = (),
    ) -> None:
        """Answer with what a provider has committed; where nobody has, nothing is sent. Raise NoRoom.

        `known`: as in Lookup.run.
        """
        wanted = Wanted(target, wanted_range, head_only=exchange.request.method == "HEAD")
        banned = self._banned(wanted)
        if banned is None:
            trace.reason = THROWN_AWAY
            return
        excluded = banned | trace.failed
        known = [each for each in known if each.peer_id not in excluded]
        if not wanted.head_only and self._verdicts.doubts(target.digest):
            outcome = await self._second_look.run(key, wanted, excluded)
        else:
            outcome = await self._lookup.run(key, wanted, excluded, failed=trace.failed, known=known)
        trace.resolve_seconds = outcome.resolve_seconds
        trace.attempts += outcome.attempts
        if isinstance(outcome, NotFound):
            if outcome.reason == NO_ROOM:  # who has waited for room once is not made to wait at others
                raise NoRoom
            trace.reason = trace.reason or outcome.reason
            if outcome.size is not None:
                trace.reason, trace.size = BEYOND_END, outcome.size
            return
        trace.reason = ""
        trace.providers.append(_address(outcome.answer))
        if isinstance(outcome.answer, Whole):
            with closing(outcome.answer):
                await _send_whole(exchange, outcome.answer, wanted_range)
        else:
            await self._send_stream(exchange, key, wanted, outcome.answer, trace)

    def _banned(self, wanted: Wanted) -> frozenset[str] | None:
        """Whose bytes containerd threw away before; None where upstream is to give them."""
        digest = wanted.target.digest
        if digest is None:
            return frozenset()
        if not wanted.head_only and (wanted.range is None or wanted.range == RangeRequest(0)):
            self._verdicts.asked_from_start(digest)
        return self._verdicts.banned(digest)

    async def _send_stream(
        self, exchange: Exchange, key: Key, wanted: Wanted, stream: Stream, trace: Trace
    ) -> None:
        part = stream.span if wanted.range is not None else None
        headers = Headers.of(content_headers(stream.descriptor, part))
        try:
            sink = await exchange.start(200 if part is None else 206, headers, stream.span.length)
        except BaseException:
            await stream.response.aclose()
            raise
        if wanted.head_only:
            await stream.response.aclose()
            return
        await self._relay(sink, key, wanted, stream, trace)

    async def _relay(self, sink: Sink, key: Key, wanted: Wanted, stream: Stream, trace: Trace) -> None:
        """Relay the body, from one provider after another, and have containerd's verdict on it remembered."""
        descriptor, stop = stream.descriptor, stream.span.stop
        received = self._verdicts.open(descriptor.digest)
        try:
            await self._relay_from_all(sink, key, wanted, stream, trace, remember=received is not None)
        finally:
            if received is not None:
                complete = not sink.remaining and stop == descriptor.size
                self._verdicts.ended(descriptor.digest, received, complete=complete)

    async def _relay_from_all(
        self, sink: Sink, key: Key, wanted: Wanted, stream: Stream, trace: Trace, *, remember: bool
    ) -> None:
        """Relay until the body is whole; return early when nobody is left."""
        descriptor, stop = stream.descriptor, stream.span.stop
        used: set[str] = set()
        while True:
            before = sink.remaining
            async with stream.response as response:
                try:
                    await sink.relay(response.source, sink.remaining, stall_timeout=self._stall_timeout)
                except (SourceEnded, SourceStalled) as error:
                    self._blame(stream, error)
            if remember and sink.remaining < before:
                self._verdicts.relayed(descriptor.digest, stream.provider.peer_id)
            if not sink.remaining:
                return
            used.add(stream.provider.peer_id)
            offset = stop - sink.remaining
            successor = await self._successor(key, wanted, stream, used, offset, stop)
            if successor is None or trace.resumes >= MAXIMUM_RESUMES:
                if successor is not None:
                    await successor.response.aclose()
                trace.reason = "ended_early"
                self._giveups.remember(descriptor.digest, trio.current_time())
                return
            stream = successor
            trace.resumes += 1
            trace.providers.append(f"{stream.provider.host}:{stream.provider.port}")
            self._observer.resumed()

    async def _successor(
        self, key: Key, wanted: Wanted, before: Stream, used: set[str], offset: int, stop: int
    ) -> Stream | None:
        """Another provider's stream of exactly the missing bytes, or None."""
        if self._verdicts.doubts(before.descriptor.digest):
            return None  # nobody is believed without a second look, for which the body cannot wait
        missing = RangeRequest(offset, stop - 1) if (offset, stop) != (0, before.descriptor.size) else None
        banned = self._verdicts.banned(before.descriptor.digest) or frozenset()
        outcome = await self._lookup.run(key, Wanted(wanted.target, missing), excluded=used | banned)
        if not isinstance(outcome, Found):
            return None
        answer = outcome.answer
        # The digest was compared with the question; the size has to be that of the head that went out.
        if not isinstance(answer, Stream) or answer.descriptor.size != before.descriptor.size:
            await close(answer)
            return None
        return answer

    def _blame(self, stream: Stream, error: SourceEnded | SourceStalled) -> None:
        kind = FailureKind.STALLED if isinstance(error, SourceStalled) else FailureKind.ENDED
        self._history.failed(stream.provider.peer_id, trio.current_time())
        self._observer.attempt_failed(stream.provider, kind, str(error))


async def _send_whole(exchange: Exchange, answer: Whole, wanted_range: RangeRequest | None) -> None:
    part = answer.span if wanted_range is not None else None
    headers = Headers.of(content_headers(answer.descriptor, part))
    if exchange.request.method == "HEAD":
        await exchange.start(200 if part is None else 206, headers, answer.span.length)
        return
    body = memoryview(answer.body)[answer.span.start : answer.span.stop]
    await exchange.respond(200 if part is None else 206, headers, body)


def _address(answer: Answer) -> str:
    return f"{answer.provider.host}:{answer.provider.port}"


__all__ = ["Mirror", "SinkClosed", "Trace"]
