"""The give-up memory: a body that nobody could finish is left to upstream. Pure; times are the caller's.

When a relayed body ends early, containerd asks again with Range, all hosts from the first. That request has to get
404 here, or the pull would go around in circles: after four answers without a byte containerd fails the pull
(containerd, remotes/docker/httpreadseeker.go).
"""

from __future__ import annotations

from collections import OrderedDict

from peili.oci.digest import Digest

MAXIMUM_ENTRIES = 4096


class GiveUps:
    """Digests that were given up lately; at most MAXIMUM_ENTRIES, the oldest go first."""

    def __init__(self, *, seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._until: OrderedDict[Digest, float] = OrderedDict()

    def remember(self, digest: Digest, now: float) -> None:
        """The body of this digest ended early and nobody could finish it."""
        self._until[digest] = now + self._seconds
        self._until.move_to_end(digest)
        while len(self._until) > MAXIMUM_ENTRIES:
            self._until.popitem(last=False)

    def contains(self, digest: Digest, now: float) -> bool:
        """Whether this digest was given up so lately that upstream is to finish it."""
        until = self._until.get(digest)
        if until is None:
            return False
        if now >= until:
            del self._until[digest]
            return False
        return True
