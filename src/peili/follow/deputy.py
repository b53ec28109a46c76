"""The second coordinator of a digest lets the closer one say who leads: two that say so at once name two. Pure.

A node that leads says so to both within a message's time. So the deputy knows of a lead as soon as anybody has got
one; while it knows of none, the closer one may be about to grant it, or has, and is late.
"""

from __future__ import annotations

from typing import Final

from peili.follow.message import Join, Purpose
from peili.follow.swarm import Swarm

# Seconds from the first Join on for which it waits: whoever asked the closer coordinator then has an answer by now,
# or has given it up (replies.ASK_TIMEOUT), and one that was granted a lead has said so.
HOLD: Final = 0.35
LOOK: Final = 0.05  # seconds until a node is to ask it again


def is_left_to_senior(swarm: Swarm, join: Join, now: float) -> bool:
    """Whether the deputy leaves this Join to the closer coordinator.

    Not where the sender has given that one up: it waits for its word by itself, for as long as makes sense.
    """
    if swarm.is_fetched():
        swarm.asked = None
        return False
    if join.purpose is not Purpose.FIRST or join.alone:
        return False
    if swarm.asked is None:
        swarm.asked = now
    return now - swarm.asked < HOLD
