"""The node-wide limit of containerd 2.1 and newer: downloads of all pulls share a few slots, until a body ends.

On 404 containerd gives its slot back and queues again, behind other layers, before it asks upstream. So all slots
of one node can hold responses that wait for another node's leads, whose slots wait for this one's. A response that
waits without growth therefore never takes the last slot, except for a moment and while no lead of ours is queued.

A response that ends (FIN) with its head and no byte makes containerd ask again from the end of its queue, without
going upstream (remotes/docker/httpreadseeker.go; fatal after 4 in a row for one digest): that is REQUEUE.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from peili.follow.settings import FollowSettings

MAX_REQUEUES: Final = 2  # in a row for one digest; the fifth would be fatal, and the give-up itself takes one
MAX_REMEMBERED: Final = 4096  # digests
# Seconds without growth after which a lead is outrun by others that grow. It says so by its next Renew, which those
# behind it are to hear of before their stall limit.
_OUTRUN: Final = 0.5
LAST_SLOT_SECONDS: Final = 0.3  # how long the last slot may wait for growth while no lead of ours queues behind it
REQUEUE_SECONDS: Final = 30.0  # after which requeues are forgotten


class Verdict(Enum):
    """What becomes of a held response that has not grown."""

    HOLD = auto()
    REQUEUE = auto()  # headers, then FIN: containerd asks again behind what it has queued
    RELEASE = auto()  # give it up: 404, this node's containerd goes upstream


@dataclass(slots=True)
class _Held:
    since: float
    grown: bool = False


class Slots:
    """The held responses and the queued leads of one node. A hold is named by its digest's key and a number."""

    def __init__(self, settings: FollowSettings) -> None:
        self._slots = settings.slots
        self._stall = settings.longest_stall
        self._outrun_within = settings.stall
        self._held: dict[int, _Held] = {}
        self._keys: dict[int, bytes] = {}
        self._leads: set[bytes] = set()  # that wait for a slot
        self._fetching: dict[bytes, float] = {}  # that have one, and when each grew last
        self._requeues: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._released_until = 0.0
        self._ended_at = -math.inf  # when the last of those that are over grew last
        self._next = 0

    def limit(self, slots: int) -> None:
        """How many downloads containerd runs at once over all pulls, now that its version is known; 0: no limit."""
        self._slots = slots

    @property
    def limited(self) -> bool:
        """Whether there is such a limit."""
        return self._slots > 0

    def hold(self, key: bytes, now: float) -> int:
        """A response begins to wait; return its number for the other methods."""
        self._next += 1
        self._held[self._next] = _Held(now)
        self._keys[self._next] = key
        return self._next

    def grew(self, number: int) -> None:
        """Bytes flow: from now on it holds its slot as any download does."""
        held = self._held.get(number)
        if held is not None:
            held.grown = True
            self._requeues.pop(self._keys[number], None)

    def end(self, number: int) -> None:
        """The response ended, in whatever way."""
        self._held.pop(number, None)
        self._keys.pop(number, None)

    def lead_queued(self, key: bytes) -> None:
        """We answered 404: containerd asks upstream once a slot is free."""
        self._leads.add(key)

    def lead_grew(self, key: bytes, now: float) -> None:
        """It has just grown, so it has a slot, though it may have lapsed before."""
        self._leads.discard(key)
        self._fetching[key] = now

    def lead_over(self, key: bytes) -> None:
        """It was committed, or vanished, or lapsed: nothing of it has or awaits a slot."""
        self._leads.discard(key)
        at = self._fetching.pop(key, -math.inf)
        self._ended_at = max(self._ended_at, at)

    def queues(self, key: bytes, now: float) -> bool:
        """Whether this lead of ours waits for a slot, while those that have one move."""
        moved_at = max([self._ended_at, *self._fetching.values()])
        moves = now - moved_at < self._stall or any(held.grown for held in self._held.values())
        return key in self._leads and moves

    def is_outrun(self, key: bytes, now: float) -> bool:
        """Whether this lead of ours gets next to nothing of the link, while others do that grew later."""
        grew_at = self._fetching.get(key, now)
        latest = max(self._fetching.values(), default=now)
        return now - grew_at >= _OUTRUN and latest > grew_at and now - latest < self._outrun_within

    @property
    def ungrown(self) -> int:
        """How many responses hold a slot without growth."""
        return sum(not held.grown for held in self._held.values())

    @property
    def leads_queued(self) -> int:
        """How many of our leads wait for a slot."""
        return len(self._leads)

    def verdict(self, number: int, now: float) -> Verdict:
        """What becomes of this response now; ask again at `next_deadline` and when a lead is granted or ends."""
        held = self._held.get(number)
        if held is None or held.grown or not self._slots:
            return Verdict.HOLD
        if self._leads:
            # What queues behind this response may be what others wait for: only a slot to spare may wait.
            return self._send_away(number, now) if self._takes_the_last(number) else Verdict.HOLD
        if self._waits_last(number) and now - held.since >= LAST_SLOT_SECONDS:
            return self._send_away(number, now)
        return Verdict.HOLD

    def next_deadline(self, number: int, now: float) -> float:
        """When to ask for the verdict again, at the latest."""
        held = self._held.get(number)
        return max(now, held.since + LAST_SLOT_SECONDS) if held is not None else now

    def _takes_the_last(self, number: int) -> bool:
        """Whether no slot is left beside this one, and none that waits began later."""
        taken = len(self._held) + len(self._fetching)
        return taken >= self._slots and not any(not h.grown for n, h in self._held.items() if n > number)

    def _waits_last(self, number: int) -> bool:
        """Whether slots - 1 others that began earlier wait without growth too."""
        return sum(not held.grown for n, held in self._held.items() if n < number) >= self._slots - 1

    def _send_away(self, number: int, now: float) -> Verdict:
        key = self._keys[number]
        count, until = self._requeues.get(key, (0, 0.0))
        if now >= until:
            count = 0
        if count >= MAX_REQUEUES:
            # With no download under way on this node, our leads would wait for the others, and they for ours.
            progress = bool(self._fetching) or any(held.grown for held in self._held.values())
            if not self._leads or progress or now < self._released_until:
                return Verdict.HOLD
            # One is enough: the slot that it gives back is for the lead that queues first.
            self._released_until = now + LAST_SLOT_SECONDS
            return Verdict.RELEASE
        self._requeues[key] = (count + 1, now + REQUEUE_SECONDS)
        self._requeues.move_to_end(key)
        while len(self._requeues) > MAX_REMEMBERED:
            self._requeues.popitem(last=False)
        return Verdict.REQUEUE
