"""Whether the reader of an answer is fast, which decides how much is kept ready for it. Pure; time is fed in."""

from __future__ import annotations

from typing import Final

# A reader that takes so many bytes in so many seconds is fast: more than its socket and ours hold.
FAST_BYTES: Final = 1024 * 1024
FAST_SECONDS: Final = 0.25


class Pace:
    """Of one reader: slow until it has shown to be fast, and fast until somebody says that it is not any more."""

    __slots__ = ("_count", "_since", "fast")

    def __init__(self, now: float) -> None:
        self._count = 0
        self._since = now
        self.fast = False

    def took(self, count: int, now: float) -> bool:
        """It took so many bytes more; return whether that has made it a fast one."""
        if now - self._since > FAST_SECONDS:
            self._count, self._since = 0, now
        self._count += count
        if self.fast or self._count < FAST_BYTES:
            return False
        self.fast = True
        return True

    def flowed(self, now: float) -> None:
        """It took as much, in whatever time, and was not waited for: the source is slow, or far away."""
        self._count, self._since = FAST_BYTES, now

    def stopped(self, now: float) -> None:
        """It was waited for too long."""
        self.fast = False
        self._count, self._since = 0, now
