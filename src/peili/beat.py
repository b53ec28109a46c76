"""Common beats: tasks that look after something now and then do so in the same turns of the event loop.

A turn of a process that has slept costs some tenths of a millisecond before any work is done, since the processor's
caches have gone cold. Five tasks that wake it one after the other cost that five times.
"""

from __future__ import annotations

import math

import trio


def next_beat(now: float, interval: float) -> float:
    """A time about `interval` seconds after `now`: a multiple of it, a half to one and a half of it away.

    Whoever begins anew at each beat has one every `interval`, together with all that have the same, or a multiple.
    """
    return math.ceil(now / interval + 0.5) * interval


async def sleep_to_beat(interval: float) -> None:
    """Sleep until the next common beat of as many seconds."""
    await trio.sleep_until(next_beat(trio.current_time(), interval))
