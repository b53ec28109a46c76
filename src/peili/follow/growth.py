"""Watching a growing blob: an ingest of this node's containerd, as leader (after our 404) or as source of others.

containerd creates an ingest (with its total, data empty) before its first request, on every asking node, and a
leftover one has bytes already; so existing, and having bytes, means nothing: only growth after our
404 does.
"""

from __future__ import annotations

from enum import Enum, auto


class Growth(Enum):
    """What a growing blob does now."""

    WAITING = auto()  # it has not grown since the watch began
    GROWING = auto()
    STALLED = auto()  # it grew, and has not for the stall limit
    LAPSED = auto()  # it did not begin to grow within the lapse
    VANISHED = auto()  # the ingest is gone without a commit, or was begun anew from less
    COMMITTED = auto()

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected from this ingest."""
        return self in {Growth.VANISHED, Growth.COMMITTED}


class GrowthWatch:
    """Feed `observe` with what is seen; `state` says what that means. Times in seconds, sizes in bytes.

    `lapse`: seconds for the first growth; `stall`: seconds without growth after it. A blob whose ingest does not
    exist yet is waited for in the same lapse.
    """

    __slots__ = ("_grew_at", "_lapse", "_over", "_seen", "_size", "_stall", "_started")

    def __init__(self, now: float, *, lapse: float, stall: float, size: int | None = None) -> None:
        self._started = now
        self._lapse = lapse
        self._stall = stall
        self._size = size
        self._seen = size is not None
        self._grew_at: float | None = None
        self._over: Growth | None = None

    @property
    def size(self) -> int:
        """Bytes that were there when last seen."""
        return self._size or 0

    @property
    def grew(self) -> bool:
        """Whether it grew at all since the watch began."""
        return self._grew_at is not None

    @property
    def last_growth(self) -> float | None:
        """When it was last seen to grow."""
        return self._grew_at

    def observe(self, now: float, size: int | None, *, committed: bool = False) -> Growth:
        """What was seen now: the ingest's size, None where there is no ingest; committed wins over both."""
        if self._over is None:
            self._note(now, size, committed=committed)
        return self.state(now)

    def state(self, now: float) -> Growth:
        """What the last observations mean at this time."""
        if self._over is not None:
            return self._over
        if self._grew_at is None:
            return Growth.WAITING if now - self._started < self._lapse else Growth.LAPSED
        return Growth.GROWING if now - self._grew_at < self._stall else Growth.STALLED

    def next_deadline(self, now: float) -> float:
        """When the state changes if nothing is observed; `now` where it never will."""
        if self._over is not None:
            return now
        if self._grew_at is None:
            return max(now, self._started + self._lapse)
        return max(now, self._grew_at + self._stall)

    def _note(self, now: float, size: int | None, *, committed: bool) -> None:
        if committed:
            self._over = Growth.COMMITTED
        elif size is None:
            if self._seen:
                self._over = Growth.VANISHED
        elif self._size is not None and size < self._size:
            # Begun anew from less: what followers have of it may be of other bytes.
            self._over = Growth.VANISHED
        else:
            # An ingest that appears after our 404 with bytes in it has grown.
            if size > (self._size or 0):
                self._grew_at = now
            self._size, self._seen = size, True
