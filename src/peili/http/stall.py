"""When a source counts as stalled, and how many bytes to let it gather before waking up. Pure; no clock.

Time is fed in, and only the time spent waiting for the source is: while the sink's socket is full nobody waits
for the source, so a slow reader never makes its source look stalled.
"""

from __future__ import annotations

# Fewer bytes than this in a whole window of waiting is a stall. A 10 KB/s link brings as much in a tenth of a
# second; a source that drips a byte now and then to keep its place is caught.
MINIMUM_PROGRESS = 1024
# For how long the source's socket gathers bytes before it wakes us (SO_RCVLOWAT), in seconds, and how many at most:
# half of what its receive buffer takes, so that the peer is never kept from sending.
GATHER = 0.04
LOW_WATER = 512 * 1024
# For how long bytes may be kept waiting in the socket because they are fewer than that, in seconds.
LOW_WATER_PATIENCE = 0.1
_SHORTEST = 0.001  # seconds


class StallWatch:
    """Watches one source. Feed every wait for it, and what arrived; it is stalled, or not.

    A window is `timeout` seconds of waiting, in one piece or in many. It begins anew as soon as
    MINIMUM_PROGRESS bytes arrived in it.
    """

    __slots__ = ("_arrived", "_timeout", "_waited")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waited = 0.0
        self._arrived = 0

    def waited(self, seconds: float) -> None:
        """We waited for the source this long."""
        self._waited += seconds

    def arrived(self, count: int) -> None:
        """The source gave this many bytes."""
        self._arrived += count
        if self._arrived >= MINIMUM_PROGRESS:
            self._arrived = 0
            self._waited = 0.0

    @property
    def left(self) -> float:
        """How many seconds the source may still be waited for in this window; zero when it is stalled."""
        return max(0.0, self._timeout - self._waited)

    @property
    def stalled(self) -> bool:
        """Whether the source is stalled."""
        return self._waited >= self._timeout


def next_low_water(current: int, taken: int, seconds: float, *, expired: bool) -> int:
    """How many bytes to wait for next, after `taken` bytes arrived in so many seconds.

    What comes in GATHER seconds, so that a source wakes us as often whatever its rate; at most twice of what has
    come at once. `expired`: LOW_WATER_PATIENCE ran out before `current` bytes were there.
    """
    if not taken:
        return 1 if expired else current
    gathered = int(taken / max(seconds, _SHORTEST) * GATHER)
    return max(1, min(LOW_WATER, gathered, 2 * max(current, taken)))
