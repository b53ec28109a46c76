"""Peers whose last attempt failed: left out until they are heard again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_SUSPECTS: Final = 2048
FORGIVEN_AFTER: Final = 60.0  # seconds; then one more attempt at a peer that is not in the table costs little
FIRST_PAUSE: Final = 1.0  # seconds until a suspect is tried again; doubles with every failure
LONGEST_PAUSE: Final = 60.0


@dataclass(slots=True)
class _Suspicion:
    failures: int
    last: float  # when the last attempt failed
    next_try: float


class Suspects:
    """A bounded memory of failures; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._by_peer: dict[bytes, _Suspicion] = {}

    def mark(self, peer_id: bytes, now: float) -> int:
        """An attempt failed at `now`; returns how many did in a row."""
        old = self._by_peer.pop(peer_id, None)
        failures = old.failures + 1 if old else 1
        pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 16), LONGEST_PAUSE)
        if len(self._by_peer) >= MAX_SUSPECTS:
            del self._by_peer[next(iter(self._by_peer))]
        self._by_peer[peer_id] = _Suspicion(failures, now, now + pause)
        return failures

    def clear(self, peer_id: bytes) -> None:
        """The peer was heard."""
        self._by_peer.pop(peer_id, None)

    def __contains__(self, peer_id: bytes) -> bool:
        return peer_id in self._by_peer

    def recent(self, peer_id: bytes, now: float) -> bool:
        """Whether the last attempt failed within FORGIVEN_AFTER."""
        suspicion = self._by_peer.get(peer_id)
        return suspicion is not None and now < suspicion.last + FORGIVEN_AFTER

    def due(self, peer_id: bytes, now: float) -> bool:
        """Whether a suspect should be tried again now; the caller tries at once, and marks or clears it."""
        suspicion = self._by_peer.get(peer_id)
        if suspicion is None or now < suspicion.next_try:
            return False
        suspicion.next_try = now + LONGEST_PAUSE  # until the attempt ends, whichever way
        return True

    def postpone(self, peer_id: bytes, now: float) -> None:
        """The attempt could not be made: the next one is due soon, and nothing is counted."""
        suspicion = self._by_peer.get(peer_id)
        if suspicion is not None:
            suspicion.next_try = now + FIRST_PAUSE
