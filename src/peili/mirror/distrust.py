"""Providers whose bytes this node's containerd threw away. Pure; times are the caller's, in seconds.

The bytes of a large blob are not verified before they are passed on: containerd does it when it has them all, and
fails the pull where they are wrong. Providers say that they have verified what they serve, but they may lie, or
have a broken disk. What follow.poison decides for one digest is not enough: a node that answers for every digest
would cost a failed pull for each, so who was the only source of two of them is asked for nothing any more.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from peili.follow.poison import BAN_SECONDS, Poison
from peili.oci.digest import Digest

MAXIMUM_DIGESTS: Final = 4096  # that were thrown away; the oldest are forgotten first
MAXIMUM_PROVIDERS: Final = 2048
# A digest that was thrown away so often is left to upstream: several lie about it.
TRIES: Final = 2
# Digests that one provider alone delivered and that were thrown away whole. One may be the doing of a pull that was
# cancelled at the very end, or of a disk that failed here.
PROOFS: Final = 2


@dataclass(slots=True)
class _Count:
    until: float
    number: int = 0


class Distrust:
    """Whom not to ask. A ban ends after `seconds`, or for a digest when it was committed."""

    def __init__(self, *, seconds: float = BAN_SECONDS) -> None:
        self._seconds = seconds
        self._poison = Poison(ban_seconds=seconds)
        self._thrown_away: OrderedDict[bytes, _Count] = OrderedDict()
        self._proofs: OrderedDict[bytes, _Count] = OrderedDict()

    def asked_from_start(self, digest: Digest, now: float) -> frozenset[str]:
        """containerd asks for all of this digest: what it received of it before, it threw away.

        Return the providers that are to blame for it, and banned from now on.
        """
        key = _key(digest)
        complete = self._poison.vanished(key, now)
        sources = complete or self._poison.vanished(key, now, complete_only=False)
        if sources:
            _increment(self._thrown_away, key, now + self._seconds, now, MAXIMUM_DIGESTS)
        if len(complete) == 1:
            _increment(self._proofs, next(iter(complete)), now + self._seconds, now, MAXIMUM_PROVIDERS)
        return frozenset(source.decode() for source in sources)

    def relayed(self, digest: Digest, peer_id: str, now: float, *, complete: bool) -> None:
        """Bytes of this provider went to containerd; `complete`: the last one of the blob too."""
        key = _key(digest)
        self._poison.relayed(key, peer_id.encode(), now, committed=False)
        if complete:
            self._poison.completed(key)

    def committed(self, digest: Digest) -> None:
        """The store has it: the bytes were right."""
        key = _key(digest)
        self._poison.committed(key)
        self._thrown_away.pop(key, None)

    def banned(self, digest: Digest, now: float) -> frozenset[str]:
        """Who is not to be asked for this digest."""
        everywhere = {peer for peer, count in self._proofs.items() if count.number >= PROOFS and now < count.until}
        return frozenset(source.decode() for source in self._poison.banned(_key(digest), now) | everywhere)

    def is_hopeless(self, digest: Digest, now: float) -> bool:
        """Whether this digest is better left to upstream."""
        count = self._thrown_away.get(_key(digest))
        return count is not None and count.number >= TRIES and now < count.until


def _key(digest: Digest) -> bytes:
    return str(digest).encode()


def _increment(counts: OrderedDict[bytes, _Count], key: bytes, until: float, now: float, most: int) -> None:
    count = counts.pop(key, None)
    if count is None or now >= count.until:
        count = _Count(until)
    count.until = until
    count.number += 1
    counts[key] = count
    if len(counts) > most:
        counts.popitem(last=False)
