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
# The same where nobody else has asked: a herd's Joins come to both coordinators at the same moment, so that a node
# whose Join is the only one for so long is the one that the closer coordinator would name as well.
SOLE: Final = 0.025
_SOLE_LOOK: Final = 0.01


def look_again(swarm: Swarm, join: Join, now: float) -> float | None:
    """Seconds until the node is to ask again, where its Join is left to the closer coordinator; else None.

    Not for long where the sender has given that one up: it waits for its word by itself, as long as makes sense.
    """
    if swarm.is_fetched():
        swarm.asked = None
        return None
    if join.purpose is not Purpose.FIRST:
        return None
    if swarm.asked is None:
        swarm.asked = now
    waited = now - swarm.asked
    if waited < SOLE:
        return _SOLE_LOOK
    return None if join.alone or len(swarm.entries) == 1 or waited >= HOLD else LOOK
