"""Which source suits which node: the cost of each in seconds, so that depth, load, speed and zone weigh together.

Joining behind a source costs the longer of two times: until the missing bytes went through what is left of its
uplink, and until it has them itself; plus a hop per level. So a large layer forms long chains, in which each uplink
works once (where the upstream is as fast as the links, a second child halves the rate of both), and a small one,
whose bytes take less time than a few hops, a flat tree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from peili.follow.swarm import Entry, Role, Swarm

UNKNOWN_TOTAL: Final = 64 * 1024 * 1024  # bytes: what a layer is taken to have while nobody knows
OTHER_ZONE: Final = 2.0  # children that a source in another zone counts as having on top
OTHER_ZONE_SECONDS: Final = 0.05
DOUBT_SECONDS: Final = 5.0  # that a doubted source counts as costing on top
BACKLOG_SECONDS: Final = 1.0  # of the front's rate: a follower that is further behind has a slow source or link
_SLOWEST: Final = 1.0  # bytes a second


@dataclass(frozen=True, slots=True)
class Seeker:
    """A node that needs a source. `sequence`: of its entry; a node without one comes last."""

    peer_id: bytes
    zone: str
    offset: int
    sequence: int
    excluded: Collection[bytes]
    has_children: bool
    waited: float = 0.0  # seconds without a byte


def front_rate(swarm: Swarm, now: float) -> float:
    """The fastest measured rate of a live lead, else of anybody; bytes a second, 0 where nothing is measured."""
    rates = [lead.rate for lead in swarm.live_leads(now) if lead.rate]
    return max(rates) if rates else max((entry.rate for entry in swarm.entries.values()), default=0.0)


def is_eligible(swarm: Swarm, entry: Entry, seeker: Seeker, now: float, *, crowded: bool = False) -> bool:
    """Whether this node may be the seeker's source: alive, ahead of it, with room, and not fed by it.

    At equal offsets, the start, only a lead or one that joined earlier. `crowded`: room up to what a source itself
    accepts.
    """
    peer_id = entry.peer.id
    if peer_id == seeker.peer_id or peer_id in seeker.excluded or entry.role is Role.WAITING:
        return False
    if not swarm.is_alive(entry, now) or not _is_ahead(swarm, entry, seeker, now):
        return False
    limit = swarm.settings.fan_out * (2 if crowded else 1)
    if len(_others(swarm, entry, seeker, now)) >= limit:
        return False
    return not (seeker.has_children and swarm.is_below(entry, seeker.peer_id))


def cost(swarm: Swarm, entry: Entry, seeker: Seeker, front: float, now: float) -> float:
    """Seconds until the seeker would have everything, taking it from this node from now on."""
    settings = swarm.settings
    total = swarm.total or UNKNOWN_TOTAL
    missing = max(total - seeker.offset, 0)
    capacity = max(settings.link_rate, front)
    others = _others(swarm, entry, seeker, now)
    used = sum(other.rate or front or capacity for other in others)
    held = swarm.estimate(entry, now)
    if others and any(_lags(swarm, other, held, front, now) for other in others):
        capacity = max(used, _SLOWEST)
    share = max(capacity - used, capacity / (len(others) + 1))
    through_it = missing / max(share, _SLOWEST)
    own = (
        0.0
        if entry.role is Role.COMMITTED
        else (total - held) / max(_expected_rate(entry, front, capacity), _SLOWEST)
    )
    seconds = max(through_it, own) + settings.hop * (entry.depth + 1)
    if entry.peer.zone != seeker.zone:
        seconds += OTHER_ZONE * missing / settings.link_rate + OTHER_ZONE_SECONDS
    return seconds + DOUBT_SECONDS if entry.doubted else seconds


def staying_cost(swarm: Swarm, entry: Entry) -> float:
    """Seconds until this follower has everything, at the rate that it has had."""
    return max((swarm.total or UNKNOWN_TOTAL) - entry.offset, 0) / max(entry.rate, _SLOWEST)


def is_held_up(swarm: Swarm, entry: Entry, front: float, now: float) -> bool:
    """Whether this follower's own source is the narrow place: it lags behind it, or the source behind its own.

    Only who is next to a narrow place goes around it; those further down come along.
    """
    source = swarm.entries.get(entry.source)
    if source is None or not entry.rate or entry.rate >= 0.7 * front:
        return False
    held = swarm.estimate(source, now)
    if _lags(swarm, entry, held, front, now):
        return True
    above = swarm.entries.get(source.source) if source.source else None
    if above is None:
        return source.role is Role.LEADING and 0 < source.rate < 0.7 * front  # one that has just begun has no rate
    return _lags(swarm, source, swarm.estimate(above, now), front, now)


def _lags(swarm: Swarm, entry: Entry, held_above: int, front: float, now: float) -> bool:
    """Whether it is a good while behind what is there for it, and not fetching that at full speed."""
    behind = held_above - swarm.estimate(entry, now)
    return entry.rate > 0 and behind > BACKLOG_SECONDS * front and entry.rate < 0.7 * front


def _expected_rate(entry: Entry, front: float, capacity: float) -> float:
    return entry.rate or front or capacity


def _others(swarm: Swarm, entry: Entry, seeker: Seeker, now: float) -> list[Entry]:
    """Its children but the seeker; neither those that the seeker says are gone, nor those not heard of."""
    return [
        child
        for child in swarm.children(entry.peer.id)
        if child.peer.id != seeker.peer_id
        and child.peer.id not in seeker.excluded
        and child.role is Role.FOLLOWING
        and swarm.is_alive(child, now)
    ]


def _is_ahead(swarm: Swarm, entry: Entry, seeker: Seeker, now: float) -> bool:
    if entry.role is Role.COMMITTED:
        return True
    if swarm.estimate(entry, now) > seeker.offset:
        return entry.role is not Role.LEADING or swarm.is_live_lead(entry, now, seeker.waited)
    if seeker.offset or entry.offset:
        return False
    if entry.role is Role.LEADING:
        return swarm.is_live_lead(entry, now, seeker.waited)
    return entry.sequence < seeker.sequence and now - entry.stays_since < swarm.settings.lapse
