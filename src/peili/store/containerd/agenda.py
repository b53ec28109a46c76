"""What is to be looked at next, and when. Pure: times in seconds are given, nothing is done here.

Events name a digest or an image, which costs one small call to look up. Whole walks repair what events do not tell;
they are coalesced, and the longer one takes the longer the store rests after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peili.oci.digest import Digest

# containerd's file, its metadata and its events about one change come so close to each other: one look serves them
# all, and while containerd pulls an image there is no need to be in its way.
SETTLE_SECONDS = 0.03
RELIST_SECONDS = 1.0  # a burst of events causes one walk, this long after the first of them
COLLECTED_SECONDS = 10.0  # after a removal containerd's garbage collection has run by then
INTERVAL_SECONDS = 300.0  # between walks when nothing happens
REST_FACTOR = 10.0  # the share of walking is at most a tenth of the time
MAXIMUM_PENDING = 2_000  # digests and images waiting to be looked up; with more of them a walk is cheaper
# containerd renames a file into place before its metadata names it, in one transaction: ask again so much later.
RETRY_SECONDS: Sequence[float] = (0.02, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Look:
    """A digest to look up; `attempt` counts from 0."""

    digest: Digest
    attempt: int


@dataclass(frozen=True, slots=True)
class Work:
    """What is due: a whole walk first, then images by name, then digests."""

    walk: bool
    images: tuple[str, ...]
    looks: tuple[Look, ...]


class Agenda:
    """One session's work. The first thing to do is a walk."""

    def __init__(self, now: float) -> None:
        self._images: dict[str, None] = {}
        self._images_at = now
        self._looks: dict[Digest, tuple[float, int]] = {}  # when, attempt
        self._soon: float | None = now
        # Nobody says when a subscription has begun: what fell in between is found by a second walk.
        self._later: float | None = now + COLLECTED_SECONDS
        self._interval = now
        self._rested = now

    def content_changed(self, digest: Digest, now: float) -> None:
        """Something happened to this blob."""
        when, _ = self._looks.get(digest, (math.inf, 0))
        self._looks[digest] = (min(when, now + SETTLE_SECONDS), 0)
        self._bound(now)

    def image_changed(self, name: str, now: float) -> None:
        """Something happened to this image: it is looked up, and what it names found by a walk soon."""
        if not self._images:
            self._images_at = now + SETTLE_SECONDS
        self._images[name] = None
        self.walk_soon(now)
        self._bound(now)

    def image_removed(self, name: str, now: float) -> None:
        """As `image_changed`; what it named is collected a little later, often without an event."""
        self.image_changed(name, now)
        self._later = now + COLLECTED_SECONDS

    def walk_soon(self, now: float) -> None:
        """Events were lost, or do not tell enough."""
        if self._soon is None:
            self._soon = now + RELIST_SECONDS

    def walk_now(self, now: float) -> None:
        """Walk as soon as the rest after the last walk is over."""
        self._soon = now

    def retry(self, look: Look, now: float) -> bool:
        """Look again later; False when that has been done often enough. News that came meanwhile counts more."""
        if look.attempt >= len(RETRY_SECONDS):
            return False
        self._looks.setdefault(look.digest, (now + RETRY_SECONDS[look.attempt], look.attempt + 1))
        return True

    def take(self, now: float) -> Work:
        """What is due now; it is off the agenda with this."""
        walk = now >= self._walk_time()
        if walk:
            self._soon = None
            if self._later is not None and self._later <= now:
                self._later = None
            self._interval = now + INTERVAL_SECONDS
        due = [digest for digest, (when, _) in self._looks.items() if when <= now]
        looks = tuple(Look(digest, self._looks.pop(digest)[1]) for digest in due)
        images: tuple[str, ...] = ()
        if self._images and now >= self._images_at:
            images, self._images = tuple(self._images), {}
        return Work(walk, images, looks)

    def walked(self, started: float, ended: float) -> None:
        """A walk is done: rest in proportion to what it took."""
        self._rested = ended + REST_FACTOR * (ended - started)
        self._interval = ended + INTERVAL_SECONDS

    def next_time(self) -> float:
        """When something is due again, if nothing happens before."""
        images = self._images_at if self._images else math.inf
        return min([self._walk_time(), images, *(when for when, _ in self._looks.values())])

    def _walk_time(self) -> float:
        wanted = min(when for when in (self._soon, self._later, self._interval) if when is not None)
        return max(wanted, self._rested)

    def _bound(self, now: float) -> None:
        if len(self._looks) + len(self._images) > MAXIMUM_PENDING:
            self._looks.clear()
            self._images.clear()
            self.walk_soon(now)
