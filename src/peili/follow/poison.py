"""Sources whose bytes this node's containerd threw away: it verifies them only when it has them all.

If a body was relayed completely and its ingest vanished with no commit, or the digest is asked for again from 0,
the sources are banned for this digest. Sources that were still receiving it themselves are blamed first; what they
had may have come from elsewhere. One that says that it has verified the bytes, and alone gave a whole body that was
wrong, lies or has a broken disk: it is banned for every digest, or it would cost a failed pull for each. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, TypeVar

MAX_PULLS: Final = 1024  # remembered; the oldest go first
MAX_SOURCES: Final = 32  # of one pull, of each kind
MAX_BANS: Final = 4096  # digests
MAX_LIARS: Final = 1024
BAN_SECONDS: Final = 600.0
PULL_SECONDS: Final = 600.0  # how long the sources of a pull are remembered
TRIES: Final = 2  # bodies of a digest that were thrown away; then it is left to upstream


@dataclass(slots=True)
class _Pull:
    until: float
    unverified: set[bytes] = field(default_factory=set)
    committed: set[bytes] = field(default_factory=set)  # by their own word
    complete: bool = False


@dataclass(slots=True)
class _Ban:
    until: float
    sources: set[bytes]
    times: int


class Poison:
    """Who may not serve which digest to this node any more. `key`: the digest's 32 bytes; times in seconds."""

    def __init__(self, *, ban_seconds: float = BAN_SECONDS) -> None:
        self._ban_seconds = ban_seconds
        self._pulls: OrderedDict[bytes, _Pull] = OrderedDict()
        self._bans: OrderedDict[bytes, _Ban] = OrderedDict()
        self._liars: OrderedDict[bytes, float] = OrderedDict()  # banned for everything, until when

    def asked(self, key: bytes, offset: int, now: float) -> frozenset[bytes]:
        """containerd asks for this digest from this offset: return the sources that are banned for it.

        From 0 after bytes of it were relayed: these were thrown away.
        """
        if offset == 0:
            self.vanished(key, now, complete_only=False)
        return self.banned(key, now)

    def relayed(self, key: bytes, source: bytes, now: float, *, committed: bool) -> None:
        """Bytes of this source went to containerd; `committed`: it says that they are verified."""
        pull = self._live_pull(key, now)
        if pull is None:
            pull = self._pulls[key] = _Pull(now + PULL_SECONDS)
            _bound(self._pulls, MAX_PULLS)
        sources = pull.committed if committed else pull.unverified
        if len(sources) < MAX_SOURCES:
            sources.add(source)
        pull.until = now + PULL_SECONDS
        self._pulls.move_to_end(key)

    def completed(self, key: bytes) -> None:
        """The last byte of the body was relayed."""
        pull = self._pulls.get(key)
        if pull is not None:
            pull.complete = True

    def interrupted(self, key: bytes) -> None:
        """The pull ended before containerd had all bytes: it has judged nothing, and nobody is to blame."""
        self._pulls.pop(key, None)

    def committed(self, key: bytes) -> None:
        """containerd verified the bytes: nobody is to blame."""
        self._pulls.pop(key, None)
        self._bans.pop(key, None)

    def vanished(self, key: bytes, now: float, *, complete_only: bool = True) -> frozenset[bytes]:
        """The ingest is gone without a commit; return who is banned for it now.

        `complete_only`: a pull that was cancelled in the middle says nothing about its bytes.
        """
        pull = self._live_pull(key, now)
        if pull is None or (complete_only and not pull.complete):
            return frozenset()
        del self._pulls[key]
        blamed = frozenset(pull.unverified or pull.committed)
        until, ban = now + self._ban_seconds, self._live_ban(key, now)
        if pull.complete and not pull.unverified and len(blamed) == 1:
            (liar,) = blamed
            self._ban_for_all(liar, until)
        sources = blamed | (ban.sources if ban is not None else set())
        times = (ban.times if ban is not None else 0) + 1
        self._bans.pop(key, None)
        self._bans[key] = _Ban(until, set(sorted(sources)[: 4 * MAX_SOURCES]), times)
        _bound(self._bans, MAX_BANS)
        return blamed

    def found_wrong(self, key: bytes, source: bytes, now: float) -> None:
        """This source, which says that it has verified the bytes, gave wrong ones to us, not to containerd."""
        self._ban_for_all(source, now + self._ban_seconds)
        ban = self._live_ban(key, now)
        if ban is not None and len(ban.sources) < 4 * MAX_SOURCES:
            ban.sources.add(source)

    def _ban_for_all(self, liar: bytes, until: float) -> None:
        self._liars.pop(liar, None)
        self._liars[liar] = until
        _bound(self._liars, MAX_LIARS)

    def banned(self, key: bytes, now: float) -> frozenset[bytes]:
        """Who may not be asked for this digest."""
        while self._liars and now >= next(iter(self._liars.values())):
            self._liars.popitem(last=False)
        ban = self._live_ban(key, now)
        return frozenset(self._liars).union(ban.sources if ban is not None else ())

    def verified_only(self, key: bytes, now: float) -> bool:
        """Whether only committed sources may serve it: lied to once, we try no other unverified one.

        Committed is what they say of themselves: mirror/second_look.py sees to that.
        """
        return self._live_ban(key, now) is not None

    def is_hopeless(self, key: bytes, now: float) -> bool:
        """Whether this digest is better left to upstream: several were wrong about it."""
        ban = self._live_ban(key, now)
        return ban is not None and ban.times >= TRIES

    def _live_ban(self, key: bytes, now: float) -> _Ban | None:
        ban = self._bans.get(key)
        if ban is not None and now >= ban.until:
            del self._bans[key]
            return None
        return ban

    def _live_pull(self, key: bytes, now: float) -> _Pull | None:
        pull = self._pulls.get(key)
        if pull is not None and now >= pull.until:
            del self._pulls[key]
            return None
        return pull


_V = TypeVar("_V")


def _bound(entries: OrderedDict[bytes, _V], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
