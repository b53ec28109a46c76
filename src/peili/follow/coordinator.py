"""The coordinator's table: per digest, who fetches it, from whom, at which offset. Pure; in memory only.

The two live nodes closest to a key keep its table, each by itself; every message goes to both, the closer one's
answer counts (replies.py), and the other one waits for its word on who leads (deputy.py). What is lost with a
coordinator comes back with the next Renew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from peili.follow.deputy import look_again
from peili.follow.message import (
    Follow,
    Join,
    Keep,
    Lead,
    Leave,
    Outcome,
    Peer,
    Purpose,
    Renew,
    Source,
    Wait,
)
from peili.follow.ranking import Seeker, cost, front_rate, is_eligible, is_held_up, staying_cost
from peili.follow.settings import FollowSettings
from peili.follow.swarm import FULL_INTERVAL, Entry, Role, Swarm
from peili.follow.swarms import Swarms

SOURCES_NAMED: Final = 4  # in one answer
_BURDEN_SECONDS: Final = 0.005  # that a node waits, per lead that it has, for another that would lead
_LONGEST_BURDEN_WAIT: Final = 0.015
_HERD: Final = 1.0  # seconds since somebody else's join, of whatever digest: then others may be about to want this
_LONGEST_WAIT: Final = 0.25
_CATCH_UP: Final = 1.5  # seconds: a lead that holds less is waited for that long
# Bytes a second that a lead is taken to get as soon as other downloads of its node, which outrun it, have ended:
# what it got beside them says nothing of that. So it is waited for by who holds up to 15 MB more.
_OUTRUN_RATE: Final = 10e6
_BETWEEN_MOVES: Final = 1.2  # seconds: two reports, and a backlog that shows
_MAX_MOVES: Final = 4  # of one node and digest for the sake of speed
_LET_GO_SHARE: Final = 0.25  # of the front's rate: whose path is slower for _LET_GO_AFTER may go upstream
_LET_GO_AFTER: Final = 4.0
_LET_GO_GAIN: Final = 10.0  # seconds that it has to save
_YOUNG: Final = 2.1  # seconds: a table that began in the middle of a pull waits for the Renews of the others
_LOOK_AGAIN: Final = 0.1  # seconds until a follower without bytes is to ask once more, before it is moved
_PUT_OFF: Final = 5  # waits of one that every lead has failed, while one of these grows
_LATE: Final = 1.2  # intervals until the next Renew, at the latest


@dataclass(frozen=True, slots=True)
class CoordinatorStatistics:
    """A snapshot for metrics and the status page; the counts are since the start."""

    digests: int
    entries: int
    leads: int
    joins: int
    leads_granted: int
    follows_granted: int
    moves: int
    deepest: int


class Coordinator:
    """Answers the messages of all nodes about the digests that lie closest to this node. Times in seconds."""

    def __init__(self, settings: FollowSettings) -> None:
        self._settings = settings
        self._swarms = Swarms(settings)
        self._joins = self._leads_granted = self._follows_granted = self._moves = 0
        self._joined: tuple[bytes, float] = b"", -inf  # who joined last, of whatever digest, and when
        self._joined_before: float = -inf  # when somebody else did

    def join(self, peer: Peer, join: Join, now: float, *, deputy: bool = False) -> Lead | Follow | Wait:
        """A node wants this digest. `peer.id` and `peer.host` are those of its connection.

        `deputy`: another coordinator of the digest is closer to it.
        """
        self._joins += 1
        if self._joined[0] != peer.id:
            self._joined_before = self._joined[1]
        self._joined = peer.id, now
        begins = join.key not in self._swarms and join.purpose is Purpose.FIRST and not join.offset
        swarm = self._swarms.of(join.key, join.total, now)
        if begins:  # as far as anybody can know, nobody fetched it before: there are no Renews to wait for
            swarm.created -= _YOUNG
        entry = self._swarms.entry(swarm, join.key, peer, join.offset, now)
        if entry.role is Role.COMMITTED:
            # It asks again, so it has it no longer.
            swarm.set_role(entry, Role.WAITING, b"", now)
            entry.grew_at = None
        entry.report(join.offset, now)
        look = look_again(swarm, join, now) if deputy else None
        if look is not None:
            return self._wait(swarm, entry, look, now)
        if entry.role is Role.LEADING and self._still_leads(swarm, entry, join, now):
            return self._lead_answer(swarm, entry, now)
        self._doubt(swarm, join.excluded)
        excluded = (*join.excluded, *join.busy)
        sources = self._sources(swarm, entry, excluded, now, everybody=join.purpose is Purpose.RESUME)
        if sources:
            return self._follow(swarm, entry, sources, now)
        return self._lead_or_wait(swarm, entry, join, now)

    def renew(self, peer: Peer, renew: Renew, now: float) -> Keep | Follow | Lead:
        """A node still fetches it; Follow: change to one of these; Lead: leave your source, go upstream."""
        swarm = self._swarms.of(renew.key, renew.total, now)
        entry = self._swarms.entry(swarm, renew.key, peer, renew.offset, now)
        role = Role.FOLLOWING if renew.source else Role.LEADING
        if role is not entry.role or renew.source != entry.source:
            swarm.set_role(entry, role, renew.source, now)
            if role is Role.LEADING:
                entry.granted = now
        entry.says_so, entry.queued = True, renew.queued
        entry.report(renew.offset, now)
        swarm.renew_depth(entry)
        entry.interval = swarm.interval(entry)
        if renew.full:
            # It is as slow as its reader: nothing to find out from it, neither of its source nor of its link.
            entry.stays_since, entry.rate, entry.interval = now, 0.0, FULL_INTERVAL
        elif role is Role.FOLLOWING:
            advice = self._unstall(swarm, entry, renew, now) or self._speed_up(swarm, entry, renew, now)
            if advice is not None:
                return advice
        known = role is Role.LEADING or entry.source in swarm.entries
        return Keep(entry.depth if known else 0, round(entry.interval * 1000), swarm.is_queued(entry))

    def leave(self, peer: Peer, leave: Leave, now: float) -> Keep:
        """A node fetches it no longer. Only its own entry changes."""
        if leave.outcome is Outcome.COMMITTED:
            self._commit(self._swarms.of(leave.key, 0, now), leave.key, peer, now)
        elif (swarm := self._swarms.get(leave.key)) is not None and peer.id in swarm.entries:
            self._swarms.drop(leave.key, peer.id)
        return Keep()

    def provided(self, key: bytes, peers: Sequence[Peer], now: float) -> None:
        """These nodes have committed it, as the provider records say. Nobody else's entry changes."""
        swarm = self._swarms.of(key, 0, now)
        for peer in peers:
            if peer.id not in swarm.entries or swarm.entries[peer.id].role is Role.COMMITTED:
                self._commit(swarm, key, peer, now)

    def knows(self, key: bytes, peer_id: bytes) -> bool:
        """Whether this node has an entry for the digest."""
        swarm = self._swarms.get(key)
        return swarm is not None and peer_id in swarm.entries

    def is_committed(self, key: bytes) -> bool:
        """Whether a node is known to have all of it."""
        swarm = self._swarms.get(key)
        return swarm is not None and any(swarm.committed())

    def forget_peer(self, peer_id: bytes) -> None:
        """This node said goodbye, or its connection is lost: all its entries go."""
        self._swarms.forget_peer(peer_id)

    def expire(self, now: float) -> None:
        """Drop what was not heard of for too long; call it every second or so."""
        self._swarms.expire(now)

    def statistics(self) -> CoordinatorStatistics:
        """A frozen snapshot."""
        entries = list(self._swarms.entries())
        return CoordinatorStatistics(
            digests=len(self._swarms),
            entries=len(entries),
            leads=sum(entry.role is Role.LEADING for entry in entries),
            joins=self._joins,
            leads_granted=self._leads_granted,
            follows_granted=self._follows_granted,
            moves=self._moves,
            deepest=max((entry.depth for entry in entries), default=0),
        )

    # Answers

    def _still_leads(self, swarm: Swarm, entry: Entry, join: Join, now: float) -> bool:
        """A repeated first join finds its lead again; one that was leading and resumes has lost its upstream."""
        if join.purpose is not Purpose.FIRST or entry.grew_at is not None or not swarm.is_live_lead(entry, now):
            return False
        # The other coordinator told somebody else to lead, and that one does: this lead was never taken up.
        return entry.says_so or not any(lead.says_so for lead in swarm.live_leads(now))

    def _has_begun(self, entry: Entry, lead: Entry, now: float) -> bool:
        """Whether a lead is younger than what `entry` holds against it: that it brought no bytes, having none."""
        last = entry.grew_at if entry.grew_at is not None else entry.joined
        return last < lead.granted and now - lead.granted < self._settings.lapse

    def _lead_answer(self, swarm: Swarm, entry: Entry, now: float) -> Lead:
        left = entry.granted + self._settings.lapse - now
        return Lead(max(1, round(left * 1000)), sole=swarm.entries.keys() == {entry.peer.id})

    def _grant(self, swarm: Swarm, entry: Entry, now: float) -> Lead:
        self._leads_granted += 1
        swarm.set_role(entry, Role.LEADING, b"", now)
        entry.granted, entry.interval, entry.rate = now, self._settings.renew_interval, 0.0
        entry.grew_at, entry.says_so, entry.queued = None, False, False
        return self._lead_answer(swarm, entry, now)

    def _follow(self, swarm: Swarm, entry: Entry, sources: Sequence[Entry], now: float) -> Follow:
        """The first is taken to be chosen; the next Renew says so, or otherwise."""
        self._follows_granted += 1
        swarm.set_role(entry, Role.FOLLOWING, sources[0].peer.id, now)
        entry.interval = swarm.interval(entry)
        named = tuple(
            Source(each.peer, swarm.estimate(each, now), each.depth, each.role is Role.COMMITTED)
            for each in sources
        )
        return Follow(named, entry.depth)

    def _lead_or_wait(self, swarm: Swarm, entry: Entry, join: Join, now: float) -> Lead | Wait:
        leads = [lead for lead in swarm.live_leads(now, now - entry.stays_since) if lead is not entry]
        young = join.purpose is Purpose.RESUME and join.offset > 0 and now - swarm.created < _YOUNG
        if not leads and young:
            return self._wait(swarm, entry, 2 * _LOOK_AGAIN, now)
        if not leads:
            herd = now - self._joined_before < _HERD
            wanted = min(join.burden * _BURDEN_SECONDS, _LONGEST_BURDEN_WAIT) if herd else 0.0
            left = entry.joined + wanted - now if join.purpose is Purpose.FIRST else 0.0
            return self._wait(swarm, entry, left, now) if left > 0 else self._grant(swarm, entry, now)
        useful = [lead for lead in leads if lead.peer.id not in join.excluded or self._has_begun(entry, lead, now)]
        if useful:
            soonest = min(_catch_up(swarm, lead, entry.offset, now) for lead in useful)
            if soonest < _CATCH_UP or len(leads) >= self._settings.max_leads:
                return self._wait(swarm, entry, max(soonest, 0.05), now)
        if len(leads) >= self._settings.max_leads:
            return self._wait(swarm, entry, _LONGEST_WAIT, now)
        is_kept = entry.peer.id in swarm.entries
        if is_kept and entry.put_off < _PUT_OFF and any(_grows(lead, now) for lead in leads):
            # It has failed this node and nobody else, and who follows it is ahead of this node in a moment.
            entry.put_off += 1
            return self._wait(swarm, entry, _LOOK_AGAIN, now)
        return self._grant(swarm, entry, now)

    def _wait(self, swarm: Swarm, entry: Entry, seconds: float, now: float) -> Wait:
        if entry.role is not Role.WAITING:
            swarm.set_role(entry, Role.WAITING, b"", now)
        return Wait(max(1, round(min(seconds, _LONGEST_WAIT) * 1000)))

    def _unstall(self, swarm: Swarm, entry: Entry, renew: Renew, now: float) -> Follow | Lead | Keep | None:
        """A follower without bytes: if its source is silent too, or no lead is live, it moves or leads.

        A live source that itself waits has just said so, and whoever is next to the fault acts for both.
        """
        waited = now - entry.stays_since
        if waited < 0.9 * self._settings.suspicion or now - swarm.created < _YOUNG:
            return None
        if waited < self._settings.suspicion + 0.9 * _LOOK_AGAIN:
            # Its source may be about to say that it waits too.
            return Keep(entry.depth, round(_LOOK_AGAIN * 1000))
        source = swarm.entries.get(renew.source)
        silent = source is None or now - source.heard >= self._silence(source)
        nobody = not swarm.live_leads(now, waited) and not any(
            each.peer.id != renew.source and each.peer.id not in renew.excluded for each in swarm.committed()
        )
        starved = source is not None and source.role is Role.LEADING and not swarm.is_live_lead(source, now, waited)
        # Two coordinators that disagreed have made a circle: nobody in it is next to a fault.
        circle = source is not None and swarm.is_below(source, entry.peer.id)
        if not (silent or nobody or starved or circle):
            return None
        if source is not None and silent:
            source.doubted = True
        sources = self._sources(swarm, entry, (*renew.excluded, renew.source), now, everybody=True)
        if sources:
            self._moves += 1
            return self._follow(swarm, entry, sources, now)
        return self._grant(swarm, entry, now) if nobody or (circle and not swarm.live_leads(now)) else None

    def _silence(self, source: Entry) -> float:
        """How long nothing is heard of who is alive: a lead says as often as ever that it has not grown."""
        if source.role is Role.LEADING:
            return max(self._settings.suspicion, _LATE * source.interval)
        return self._settings.suspicion

    def _speed_up(self, swarm: Swarm, entry: Entry, renew: Renew, now: float) -> Follow | Lead | None:
        """A follower whose source is the narrow place moves around it; if nobody is better, it may go upstream."""
        if now - max(entry.moved_at, entry.joined) < _BETWEEN_MOVES or entry.moves >= _MAX_MOVES:
            return None
        front = front_rate(swarm, now)
        if not front or not is_held_up(swarm, entry, front, now):
            return None
        staying = staying_cost(swarm, entry)
        seeker = self._seeker(swarm, entry, (*renew.excluded, renew.source), now)
        sources = self._sources(swarm, entry, seeker.excluded, now, everybody=True)
        if sources and 1.3 * cost(swarm, sources[0], seeker, front, now) + 1.0 < staying:
            entry.moved_at, entry.moves = now, entry.moves + 1
            entry.rate = 0.0
            self._moves += 1
            return self._follow(swarm, entry, sources, now)
        return self._let_go(swarm, entry, staying, now)

    def _let_go(self, swarm: Swarm, entry: Entry, staying: float, now: float) -> Lead | None:
        """Only where a lead shows that upstream is much faster than this path."""
        leads = swarm.live_leads(now)
        fastest = max((lead.rate for lead in leads), default=0.0)
        if not fastest or len(leads) >= self._settings.max_leads or now - entry.joined < _LET_GO_AFTER:
            return None
        upstream = (swarm.total - entry.offset) / fastest
        if entry.rate < _LET_GO_SHARE * fastest and staying > upstream + _LET_GO_GAIN:
            entry.moved_at, entry.moves = now, entry.moves + 1
            return self._grant(swarm, entry, now)
        return None

    # The table

    def _commit(self, swarm: Swarm, key: bytes, peer: Peer, now: float) -> None:
        entry = self._swarms.entry(swarm, key, peer, 0, now)
        entry.heard = now
        swarm.set_role(entry, Role.COMMITTED, b"", now)

    def _sources(
        self, swarm: Swarm, entry: Entry, excluded: Collection[bytes], now: float, *, everybody: bool
    ) -> list[Entry]:
        seeker = self._seeker(swarm, entry, excluded, now)
        front = front_rate(swarm, now) if everybody else max((lead.rate for lead in swarm.leads()), default=0.0)
        looked_at = list(swarm.entries.values() if everybody else swarm.likely_sources())
        for crowded in (False, True):
            fitting = [each for each in looked_at if is_eligible(swarm, each, seeker, now, crowded=crowded)]
            if fitting:
                fitting.sort(key=lambda each: (cost(swarm, each, seeker, front, now), each.sequence))
                return fitting[:SOURCES_NAMED]
        return []

    def _seeker(self, swarm: Swarm, entry: Entry, excluded: Collection[bytes], now: float) -> Seeker:
        has_children = any(True for _ in swarm.children(entry.peer.id))
        return Seeker(
            entry.peer.id,
            entry.peer.zone,
            entry.offset,
            entry.sequence,
            frozenset(excluded),
            has_children,
            now - entry.stays_since,
        )

    def _doubt(self, swarm: Swarm, excluded: Sequence[bytes]) -> None:
        for peer_id in excluded:
            entry = swarm.entries.get(peer_id)
            if entry is not None:
                entry.doubted = True


def _grows(lead: Entry, now: float) -> bool:
    """Whether it said so within its last interval."""
    return lead.grew_at is not None and now - lead.grew_at <= lead.interval


def _catch_up(swarm: Swarm, lead: Entry, offset: int, now: float) -> float:
    """Seconds until this lead holds more than `offset`."""
    missing = offset - swarm.estimate(lead, now)
    if missing < 0:
        return 0.0
    rate = max(lead.rate, _OUTRUN_RATE) if lead.rate and lead.queued else lead.rate
    return (missing + 1) / rate if rate else _LONGEST_WAIT
