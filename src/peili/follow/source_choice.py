"""One pull through the peers, seen from the node that pulls: which source next, when to ask again, when to give up.

The caller does the I/O: it joins, asks sources, relays, renews; tells this what happened; and does what `next_step`
says. Pure; times in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from peili.follow.crawl import CrawlWatch
from peili.follow.failed_sources import FailedSources, SourceFailure
from peili.follow.message import (
    Answer,
    Follow,
    Join,
    Keep,
    Lead,
    Purpose,
    Renew,
    Source,
    Wait,
)
from peili.follow.settings import FollowSettings
from peili.follow.steps import GoUpstream, JoinNow, RenewNow, Stay, Step, Take

MAX_TRIES: Final = 24  # sources that failed and answers that name some without one byte in between
# Seconds that a held response may wait in all without one byte, and the stall limit of its depth; then upstream.
MAX_WITHOUT_GROWTH: Final = 5.0
# The same, whatever the depth, while a coordinator answers: it lets one of those that wait lead, and where each
# decided for itself, all of a herd would go at the same moment.
HARD_LIMIT: Final = 15.0
_ANSWERS: Final = 1.0  # seconds since its last answer, for which a coordinator counts as one that answers
# Seconds in all for who may only take from committed sources: it waits while those that are named come nearer.
VERIFIED_LIMIT: Final = 60.0
FIRST_PATIENCE: Final = 0.2  # seconds without any coordinator at the start; in the middle it is the stall limit
_INTRODUCE: Final = 0.02  # seconds until the coordinators hear of a source that they did not name
_RETRY: Final = 0.1  # seconds until the coordinators are asked again when every source that they named refused
_VERIFIED_RETRY: Final = 0.25  # seconds until they are asked again where only a verified source will do
FULL_PAUSE: Final = 2.0  # seconds without a byte for which our containerd, once seen to take none, is the reason
# Seconds by which a Renew may go out sooner, at a look that all pulls share, where it is not wanted for a second.
_EARLY: Final = 0.2
_FORGETS: Final = 0.8  # the share of a long pause that counts at the next growth


class SourceChoice:
    """The state of one pull of one digest, for one held response.

    `offset`: bytes of the digest that our containerd has; `banned`: who may never serve it (poison.py);
    `verified_only`: take only committed sources. `known`: who has all of it: asked before the coordinators.
    """

    def __init__(
        self,
        settings: FollowSettings,
        key: bytes,
        now: float,
        *,
        offset: int = 0,
        total: int = 0,
        burden: int = 0,
        port: int = 0,
        zone: str = "",
        banned: frozenset[bytes] = frozenset(),
        verified_only: bool = False,
        known: Iterable[Source] = (),
    ) -> None:
        self._settings = settings
        self._key, self._offset, self._total = key, offset, total
        self._burden, self._port, self._zone = burden, port, zone
        self.verified_only = verified_only
        self._failed = FailedSources(banned)
        self._candidates: deque[Source] = deque()
        self._source: Source | None = None
        self._unnamed = deque(known)
        self._asking: Source | None = None
        self._depth = 1
        self._purpose = Purpose.FIRST
        self._talking = False
        self._joined = False  # the last message was a Join
        self._introducing = False  # the coordinators are about to hear of a source that they did not name
        self._grew_at = now
        self._pause: float | None = None  # between two growths, the longest of late; None before the first
        self._taken_at = now
        self._crawl = CrawlWatch(now, offset)
        self._outrun = False  # the lead above is kept waiting by other downloads of its node
        self._rose = False  # whether the present source came nearer to upstream since it was taken
        self._suspect_at = math.inf
        self._full_at = -math.inf  # when our containerd was last seen to take no byte
        self._ask_at = now  # the next Join, or Renew where there is a source
        self._early = 0.0  # seconds that it may go out sooner than at `_ask_at`
        self._silent_since = math.inf
        self._heard_at = -math.inf
        self._verified_until = now + VERIFIED_LIMIT
        self._named_offset = 0  # the highest of those that were named
        self._tries = 0
        self._end: GoUpstream | None = None

    @property
    def source(self) -> Source | None:
        """Whom we take from now."""
        return self._source

    @property
    def leaves(self) -> bool:
        """Whether the pull is to go upstream, as far as is known now."""
        return self._end is not None

    @property
    def depth(self) -> int:
        """Hops from upstream."""
        return self._depth

    @property
    def total(self) -> int:
        """The size of the whole, 0 while it is not known."""
        return self._total

    def know_total(self, total: int) -> None:
        """The head of a source, or our own ingest, says how large it is."""
        self._total = total

    def answered(self, answer: Answer | None, now: float) -> None:
        """The coordinators answered the last JoinNow or RenewNow; None: both were silent."""
        self._talking = False
        if answer is not None:
            self._silent_since, self._heard_at = math.inf, now
        if self._joined and self._source is not None and not isinstance(answer, Keep):
            # Somebody has answered before the coordinators: they are to hear of that.
            self._ask_at = now
            return
        introducing, self._introducing = self._introducing, False
        if introducing and isinstance(answer, Lead):
            # They take it for the end of a pull that was broken off a moment ago, and stood still.
            self._ask_at = now + self._settings.renew_interval
            return
        match answer:
            case Lead(unprovided=unprovided):
                self._end = GoUpstream(leading=True, reason="lead", unprovided=unprovided)
            case Follow(sources, depth):
                self._offered(sources, depth, now)
            case Wait(milliseconds):
                self._ask_at = now + max(milliseconds, 1) / 1000
            case Keep(depth, milliseconds, queued):
                self._outrun = queued
                if queued and self._waits_for_first_bytes():
                    self._taken_at = now  # its time begins when the lead does, within HARD_LIMIT
                if 0 < depth < self._depth and not self._rose:
                    # Somebody above has just begun to lead, or has a better source: give that its time, once.
                    self._taken_at, self._rose = now, True
                self._depth = max(depth, 1)  # nobody knows our source: no time for it beyond the shortest
                self._ask_at = now + milliseconds / 1000 if self._source is not None else now
                self._early = _EARLY if milliseconds >= 1000 else 0.0
                # Without a byte the coordinator may want to hear again sooner, but never rarer than from a lead.
                self._suspect_at = max(self._suspect_at, min(self._ask_at, now + self._settings.renew_interval))
            case None:
                self._unanswered(now)

    def taken(self, source: Source, now: float, *, unnamed: bool = False) -> None:
        """The source that Take named answered with its head, and is relayed from now on."""
        self._source, self._asking = source, None
        self._silent_since = math.inf
        self._candidates.clear()
        self._unnamed.clear()
        if self._joined and self._end is not None and self._end.leading:
            self._end = None  # the coordinators did not know of it
        self._depth = source.depth + 1
        self._purpose = Purpose.RESUME
        self._taken_at, self._rose, self._outrun = now, False, False
        self._crawl.begin(now, self._offset)
        self._introducing = unnamed
        self._ask_at = now + self._settings.renew_interval
        if unnamed:  # the coordinators are to hear of it: at once where they were asked, else after the first bytes
            self._ask_at = now if self._joined else now + _INTRODUCE
        self._suspect_at = now + self._settings.suspicion

    def grew(self, offset: int, now: float) -> None:
        """Our containerd has this many bytes of the digest now."""
        if offset > self._offset:
            self._pause = max(now - self._grew_at, _FORGETS * self._pause) if self._pause is not None else 0.0
            self._offset, self._grew_at, self._tries, self._outrun = offset, now, 0, False
            self._suspect_at = now + self._settings.suspicion
            self._purpose = Purpose.RESUME
            self._crawl.grew(now, offset)
            # Where our containerd took no byte, the coordinators wanted to hear of it rarely.
            if self._ask_at > now + FULL_PAUSE:
                self._ask_at, self._early = now + FULL_PAUSE, 0.0

    def excused(self, now: float) -> None:
        """Nothing can grow: our containerd takes no byte, and the source is not to blame."""
        self._grew_at = self._full_at = now
        self._crawl.begin(now, self._offset)
        self._suspect_at = now + FULL_PAUSE

    def found(self, source: Source) -> None:
        """It has all of it: to be asked where the coordinators are silent."""
        self._candidates.append(source)

    def declined(self) -> None:
        """The unnamed source of the last Take serves others already."""
        self._asking = None
        self._unnamed.clear()

    def alternative(self, now: float) -> Source | None:
        """Another of those that were named, to be asked beside the one of the last Take."""
        while self._candidates:
            candidate = self._candidates.popleft()
            if self.may_ask(candidate, now):
                return candidate
        return None

    def may_ask(self, source: Source, now: float) -> bool:
        """Whether this pull may take anything from it now."""
        if self.verified_only and not source.committed:
            return False
        return self._failed.may_serve(source.peer.id, now)

    def failed(self, peer_id: bytes, failure: SourceFailure, now: float) -> None:
        """The source failed, before its head or in the middle."""
        # A refusal costs no try, and the next answer counts anyway.
        self._tries += self._failed.add(peer_id, failure, now, follower=self._depth > 1)
        if self._asking is not None and self._asking.peer.id == peer_id:
            self._asking = None
        if self._source is not None and self._source.peer.id == peer_id:
            self._source = None
            self._purpose = Purpose.RESUME
        if self._source is None:
            self._ask_at = min(self._ask_at, now)

    def next_step(self, now: float) -> Step:
        """What to do now; ask again when that is done, when something happened, and at the time of Stay."""
        end = self._judge(now)
        if end is not None:
            return end
        if self._asking is not None:
            return Stay(self._deadline(now))
        take = self._take_named(now) or self._take_unnamed(now)
        if take is not None:
            self._asking = take.source
            return take
        if self._talking or now < min(self._due(), self._ask_at - self._early):
            return Stay(self._deadline(now))
        self._early = 0.0
        self._talking, self._joined = True, self._source is None
        return self._joining(now) if self._joined else self._renewal(now)

    def join_beside(self, now: float) -> Join | None:
        """Who is asked before the coordinators is slow: they are to be asked now."""
        if self._talking or self._joined or self._source is not None:
            return None
        self._talking = self._joined = True
        return self._joining(now).join

    def _take_named(self, now: float) -> Take | None:
        candidate = self.alternative(now)
        return Take(candidate) if candidate is not None else None

    def _take_unnamed(self, now: float) -> Take | None:
        """Only before anything else: whoever has asked the coordinators does as they say."""
        while self._unnamed and not self._joined:
            source = self._unnamed.popleft()
            if self.may_ask(source, now):
                return Take(source, unnamed=True)
        return None

    def _judge(self, now: float) -> GoUpstream | None:
        """The watch over the present source, and over the whole of the wait."""
        if self._end is None and now >= self._gives_up_at(now):
            self._end = GoUpstream(leading=False, reason="no growth")
        elif self._end is None and self._tries > MAX_TRIES:
            self._end = GoUpstream(leading=False, reason="too many tries")
        elif self._source is not None and now >= self._stalls_at():
            self.failed(self._source.peer.id, SourceFailure.STALLED, now)
        elif self._source is not None and self._crawls(self._source, now):
            self.failed(self._source.peer.id, SourceFailure.SLOW, now)
        return self._end

    def _crawls(self, source: Source, now: float) -> bool:
        """Whether it is so slow that anybody else is better. One that receives it itself may not be to blame."""
        return source.committed and self._crawl.crawls(now, self._offset, self._total)

    def _due(self) -> float:
        """The next message. Without a byte the coordinator is asked soon, and then as often as by a lead."""
        return self._ask_at if self._source is None else min(self._ask_at, self._suspect_at)

    def _stall_limit(self) -> float:
        if self._waits_for_first_bytes():
            return self._settings.first_growth_limit(self._depth)
        return self._settings.stall_limit(self._depth, self._pause or 0.0, outrun=self._outrun)

    def _waits_for_first_bytes(self) -> bool:
        """Whether our source had no more than we have, and waits for the lead's first bytes itself."""
        source = self._source
        waits = source is not None and not source.committed and source.offset <= self._offset
        return waits and self._pause is None

    def _stalls_at(self) -> float:
        return max(self._grew_at, self._taken_at) + self._stall_limit()

    def _gives_up_at(self, now: float) -> float:
        answers = now - self._heard_at < _ANSWERS
        return self._grew_at + (HARD_LIMIT if answers else MAX_WITHOUT_GROWTH + self._stall_limit())

    def _deadline(self, now: float) -> float:
        """When next_step may say something new though nothing happened."""
        unheard = max(self._gives_up_at(math.inf), self._heard_at + _ANSWERS)
        times = [self._gives_up_at(now), unheard]
        if self._source is not None:
            times.append(self._stalls_at())
        if not self._talking and self._asking is None:
            times.append(self._due())
        return min(times)

    def _offered(self, sources: tuple[Source, ...], depth: int, now: float) -> None:
        self._depth = depth
        if self.verified_only and not any(source.committed for source in sources):
            # Nobody has verified it yet: look again, as long as somebody comes nearer to that.
            self._ask_at = now + _VERIFIED_RETRY
            furthest = max(source.offset for source in sources)
            if furthest > self._named_offset and now < self._verified_until:
                self._named_offset, self._grew_at = furthest, now
            return
        self._tries += 1
        present = self._source.peer.id if self._source is not None else b""
        self._candidates = deque(s for s in sources if s.peer.id != present and self.may_ask(s, now))
        self._ask_at = now + (_RETRY if self._source is None else self._settings.renew_interval)

    def _unanswered(self, now: float) -> None:
        """Both coordinators are silent: routing soon names others. Then a node leads by itself."""
        self._suspect_at = now + self._settings.renew_interval
        if self._source is not None or self._asking is not None or self._candidates:
            self._ask_at = now + self._settings.renew_interval
            return
        self._ask_at = now + _RETRY
        self._silent_since = min(self._silent_since, now)
        patience = self._stall_limit() if self._purpose is Purpose.RESUME and self._offset else FIRST_PATIENCE
        if now - self._silent_since >= patience:
            self._end = GoUpstream(leading=False, reason="no coordinator")

    def _joining(self, now: float) -> JoinNow:
        join = Join(
            self._key,
            self._offset,
            self._total,
            self._purpose,
            self._failed.excluded(now),
            self._burden,
            self._port,
            self._zone,
            self._failed.busy(now),
        )
        return JoinNow(join)

    def _renewal(self, now: float) -> RenewNow:
        assert self._source is not None
        peer_id = self._source.peer.id
        full = now - self._full_at < FULL_PAUSE
        renew = Renew(
            self._key, self._offset, self._total, peer_id, self._failed.all(now), self._port, self._zone, full
        )
        return RenewNow(renew)
