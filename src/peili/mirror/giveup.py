"""The give-up memory: a body that nobody could finish is left to upstream. Pure; times are the caller's.

When a relayed body ends early, containerd asks again with Range, all hosts from the first. That request has to get
404 here, or the pull would go around in circles: after four answers without a byte containerd fails the pull
(containerd, remotes/docker/httpreadseeker.go).

The memory is short: containerd asks again within milliseconds, and who pulls the image anew a few seconds later,
with all other nodes after an outage of the registry, is to share again.
"""

from __future__ import annotations

from collections import OrderedDict

from peili.oci.digest import Digest

MAXIMUM_ENTRIES = 4096
SECONDS = 5.0  # for which a digest is left to upstream
ANOTHER_PULL = 1.0  # seconds after which a request from the start is none of the pull that was given up


class GiveUps:
    """Digests that were given up lately; at most MAXIMUM_ENTRIES, the oldest go first."""

    def __init__(self, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._since: OrderedDict[Digest, float] = OrderedDict()

    def remember(self, digest: Digest, now: float) -> None:
        """The body of this digest ended early and nobody could finish it."""
        self._since[digest] = now
        self._since.move_to_end(digest)
        while len(self._since) > MAXIMUM_ENTRIES:
            self._since.popitem(last=False)

    def contains(self, digest: Digest, now: float, *, from_start: bool = False) -> bool:
        """Whether this digest was given up so lately that upstream is to finish it."""
        since = self._since.get(digest)
        if since is None:
            return False
        if now - since >= (min(ANOTHER_PULL, self._seconds) if from_start else self._seconds):
            del self._since[digest]
            return False
        return True
