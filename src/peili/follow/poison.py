"""Sources that may have given wrong bytes: bytes of a growing blob are verified only when containerd commits them.

If a body was relayed completely and its ingest vanished with no commit, or the digest is asked for again from 0,
its unverified sources are banned for this digest: what comes next is from committed ones or from upstream. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

MAX_PULLS: Final = 1024  # remembered; the oldest go first
MAX_SOURCES: Final = 32  # of one pull
MAX_BANS: Final = 4096  # digests
BAN_SECONDS: Final = 600.0
PULL_SECONDS: Final = 600.0  # how long the sources of a pull are remembered


@dataclass(slots=True)
class _Pull:
    until: float
    sources: set[bytes] = field(default_factory=set)
    complete: bool = False


@dataclass(slots=True)
class _Ban:
    until: float
    sources: set[bytes]


class Poison:
    """Who may not serve which digest to this node any more. `key`: the digest's 32 bytes; times in seconds."""

    def __init__(self, *, ban_seconds: float = BAN_SECONDS) -> None:
        self._ban_seconds = ban_seconds
        self._pulls: OrderedDict[bytes, _Pull] = OrderedDict()
        self._bans: OrderedDict[bytes, _Ban] = OrderedDict()

    def asked(self, key: bytes, offset: int, now: float) -> frozenset[bytes]:
        """containerd asks for this digest from this offset: return the sources that are banned for it.

        From 0 after bytes of it were relayed: these were thrown away.
        """
        if offset == 0:
            self.vanished(key, now, complete_only=False)
        return self.banned(key, now)

    def relayed(self, key: bytes, source: bytes, now: float, *, committed: bool) -> None:
        """Bytes of this source went to containerd. A committed source's own containerd has checked them."""
        if committed:
            return
        pull = self._live_pull(key, now)
        if pull is None:
            pull = self._pulls[key] = _Pull(now + PULL_SECONDS)
            while len(self._pulls) > MAX_PULLS:
                self._pulls.popitem(last=False)
        if len(pull.sources) < MAX_SOURCES:
            pull.sources.add(source)
        pull.until = now + PULL_SECONDS
        self._pulls.move_to_end(key)

    def completed(self, key: bytes) -> None:
        """The last byte of the body was relayed."""
        pull = self._pulls.get(key)
        if pull is not None:
            pull.complete = True

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
        ban = self._bans.pop(key, None)
        sources = pull.sources | (ban.sources if ban is not None and now < ban.until else set())
        self._bans[key] = _Ban(now + self._ban_seconds, set(sorted(sources)[: 4 * MAX_SOURCES]))
        while len(self._bans) > MAX_BANS:
            self._bans.popitem(last=False)
        return frozenset(pull.sources)

    def banned(self, key: bytes, now: float) -> frozenset[bytes]:
        """Who may not be followed for this digest."""
        ban = self._bans.get(key)
        if ban is None:
            return frozenset()
        if now >= ban.until:
            del self._bans[key]
            return frozenset()
        return frozenset(ban.sources)

    def verified_only(self, key: bytes, now: float) -> bool:
        """Whether only committed sources may serve it: lied to once, we try no other unverified one."""
        return bool(self.banned(key, now))

    def _live_pull(self, key: bytes, now: float) -> _Pull | None:
        pull = self._pulls.get(key)
        if pull is not None and now >= pull.until:
            del self._pulls[key]
            return None
        return pull
