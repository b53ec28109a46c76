"""Whether this node serves a growing blob to one more follower: its own last word on fan-out and cycles. Pure."""

from __future__ import annotations

from enum import Enum, auto

from peili.follow.settings import FollowSettings


class Admission(Enum):
    """The answer to a follower. SERVE is a 200 or 206; the others are a 503: the follower asks the next."""

    SERVE = auto()
    BUSY = auto()  # too many followers of this digest
    BEHIND = auto()  # this node does not hold more than the follower: it could come to wait for itself


def admit(settings: FollowSettings, *, followers: int, size: int, start: int, active: bool) -> Admission:
    """Decide on a request for bytes from `start` of a growing blob of which `size` bytes are here.

    `followers`: how many are being served of this digest. `active`: this node leads it, or follows somebody else
    for it: at the start, when nobody has a byte, the coordinator's order keeps cycles out; later only bytes do
    (the follower of a source always holds less than the source when it begins, so no circle can close).
    """
    if followers >= 2 * settings.fan_out:
        return Admission.BUSY
    if size > start or (size == start == 0 and active):
        return Admission.SERVE
    return Admission.BEHIND
