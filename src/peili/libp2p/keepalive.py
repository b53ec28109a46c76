"""When a silent peer is asked for a sign of life, and when it is given up; a pure decision."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

PING_INTERVAL: Final = 20.0  # seconds without a byte of the peer, after which it is pinged
PING_TIMEOUT: Final = 15.0  # seconds that it has for any byte after a ping
SUSPECT_TIMEOUT: Final = 5.0  # the same for a peer that dials us anew: it probably restarted
WRITE_TIMEOUT: Final = 30.0  # seconds for the peer to take one batch of bytes
CHECK_INTERVAL: Final = 5.0  # seconds between two looks; a frozen peer is gone after the sum of the three: 45 s


class Step(Enum):
    """What to do with a connection now."""

    WAIT = auto()
    PING = auto()
    GIVE_UP = auto()


class KeepAlive:
    """Signs of life of one peer. Times in seconds of the caller's clock."""

    __slots__ = ("_deadline", "_heard", "_writing_since")

    def __init__(self, now: float) -> None:
        self._heard = now
        self._deadline: float | None = None
        self._writing_since: float | None = None

    def heard(self, now: float) -> None:
        """The peer sent something."""
        self._heard = now
        self._deadline = None

    def write_started(self, now: float) -> None:
        """A batch of bytes is on its way to the peer."""
        self._writing_since = now

    def write_ended(self) -> None:
        """The batch is taken."""
        self._writing_since = None

    def step(self, now: float) -> Step:
        """What to do at this look."""
        if self._writing_since is not None and now - self._writing_since >= WRITE_TIMEOUT:
            return Step.GIVE_UP
        if self._deadline is not None:
            return Step.GIVE_UP if now >= self._deadline else Step.WAIT
        if now - self._heard < PING_INTERVAL:
            return Step.WAIT
        self._deadline = now + PING_TIMEOUT
        return Step.PING

    def suspect(self, now: float) -> Step:
        """There is reason to believe that the peer is gone: ping it, and wait for a shorter time."""
        deadline = now + SUSPECT_TIMEOUT
        if self._deadline is not None and self._deadline <= deadline:
            return Step.WAIT
        self._deadline = deadline
        return Step.PING
