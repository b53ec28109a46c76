"""Who may not serve one pull, now or ever, and who is not to be named to it. Pure; times in seconds."""

from __future__ import annotations

import math
from collections import OrderedDict
from enum import Enum, auto
from typing import Final

_REMEMBERED: Final = 24  # peers that failed this pull; fits a Join's bound together with the banned ones
_MOST_NAMED: Final = 32  # peers that are excluded in one message
_BUSY_SECONDS: Final = 1.0  # a source that had no room may have some later
_BEHIND_SECONDS: Final = 0.1  # containerd writes 1 MiB at a time: one that was level is ahead in a moment
_STALLED_SECONDS: Final = 5.0
_ENDED_SECONDS: Final = 1.0  # it may have been started anew; who ends twice is not asked again
_WAITED_SECONDS: Final = 1.0  # a follower that stalled waited for its own source, and may have found another


class SourceFailure(Enum):
    """How a source failed this pull."""

    BUSY = auto()  # 503: its fan-out; nothing is wrong with it
    BEHIND = auto()  # 503: it does not hold more than we do
    ENDED = auto()  # FIN or reset in the middle, or before the first byte
    STALLED = auto()
    SLOW = auto()  # it crawls: SLOW_RATE
    BROKEN = auto()  # refused, timed out, another size or digest


_SOFT: Final = frozenset({SourceFailure.BUSY, SourceFailure.BEHIND})
_EXCLUDED_SECONDS: Final = {
    SourceFailure.BUSY: _BUSY_SECONDS,
    SourceFailure.BEHIND: _BEHIND_SECONDS,
    SourceFailure.STALLED: _STALLED_SECONDS,
    SourceFailure.ENDED: _ENDED_SECONDS,
}


class FailedSources:
    """The peers that failed one pull, and for how long each is left alone."""

    def __init__(self, banned: frozenset[bytes] = frozenset()) -> None:
        """`banned`: who may never serve it (poison.py)."""
        self._banned = banned
        self._failed: OrderedDict[bytes, tuple[float, SourceFailure]] = OrderedDict()  # until when, and why

    def add(self, peer_id: bytes, failure: SourceFailure, now: float, *, follower: bool) -> bool:
        """It failed. `follower`: it receives the content itself. Return whether it is to blame, not only busy."""
        seconds = _EXCLUDED_SECONDS.get(failure, math.inf)
        if failure is SourceFailure.STALLED and follower:
            seconds = _WAITED_SECONDS
        if failure is SourceFailure.ENDED and self._failed.get(peer_id, (0.0, None))[1] is SourceFailure.ENDED:
            seconds = math.inf
        self._failed[peer_id] = (now + seconds, failure)
        self._failed.move_to_end(peer_id)
        while len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)
        return failure not in _SOFT

    def may_serve(self, peer_id: bytes, now: float) -> bool:
        """Whether it may be asked now."""
        until, _ = self._failed.get(peer_id, (-math.inf, None))
        return peer_id not in self._banned and now >= until

    def excluded(self, now: float) -> tuple[bytes, ...]:
        """Those that are not to be named to us because they failed, or are banned."""
        banned = [each for each in sorted(self._banned) if each not in self._failed]
        return (*self._now(now, soft=False), *banned)[:_MOST_NAMED]

    def busy(self, now: float) -> tuple[bytes, ...]:
        """Those that are not to be named to us for a moment, with nothing against them."""
        return self._now(now, soft=True)[:_MOST_NAMED]

    def all(self, now: float) -> tuple[bytes, ...]:
        """Both."""
        return (*self.excluded(now), *self.busy(now))[:_MOST_NAMED]

    def _now(self, now: float, *, soft: bool) -> tuple[bytes, ...]:
        failed = self._failed.items()
        return tuple(id_ for id_, (until, failure) in failed if now < until and (failure in _SOFT) is soft)
