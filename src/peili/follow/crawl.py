"""A committed source that crawls: anybody else is better. Pure; times in seconds."""

from __future__ import annotations

from typing import Final

# A committed source that brings so few bytes a second over SLOW_WINDOW seconds, with more than SLOW_REST seconds to
# go at that rate, is left for another, or for upstream; MAX_SLOW of them, for then it is our own link.
SLOW_RATE: Final = 32 * 1024
SLOW_WINDOW: Final = 5.0
SLOW_REST: Final = 30.0
MAX_SLOW: Final = 3


class CrawlWatch:
    """Watches the rate of one pull, over its sources."""

    def __init__(self, now: float, offset: int) -> None:
        self._since, self._offset = now, offset
        self._slow = 0  # sources that were

    def begin(self, now: float, offset: int) -> None:
        """A source is new, or nothing could grow for a reason that is not its fault: measure from here."""
        self._since, self._offset = now, offset

    def grew(self, now: float, offset: int) -> None:
        """There are so many bytes now. A window begins where they come slowly: no burst before counts in it."""
        if offset - self._offset >= SLOW_RATE * (now - self._since):
            self.begin(now, offset)

    def crawls(self, now: float, offset: int, total: int) -> bool:
        """Whether the present source is to be left; each True counts as one that was."""
        elapsed = now - self._since
        if self._slow >= MAX_SLOW or elapsed < SLOW_WINDOW:
            return False
        rate = (offset - self._offset) / elapsed
        self.begin(now, offset)
        slow = rate < SLOW_RATE and total - offset > rate * SLOW_REST
        self._slow += slow
        return slow
