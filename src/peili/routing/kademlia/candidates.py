"""Who is close to a key: the candidates that may coordinate it, and where this node is among those close to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from peili.follow.replies import CANDIDATES
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import distance, kad_key, position
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Links

NEAREST_LIFETIME: Final = 10.0  # seconds for which the candidates of a key are remembered
PLACE_LIFETIME: Final = 1.0  # seconds for which we remember how close to a key we are
MOST_NEAREST: Final = 1024  # keys


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is among those close to a key, as far as it knows without asking anybody."""

    deputy: bool  # exactly one coordinator is closer
    near: bool  # of all peers, followers or not, fewer than CANDIDATES are closer: whoever has it tells us


class Candidates:
    """Those closest to each key, the closest first, of the nodes that speak `protocol`; we are one of them."""

    def __init__(self, knowledge: Knowledge, links: Links, protocol: str) -> None:
        self._knowledge = knowledge
        self._links = links
        self._protocol = protocol
        self._nearest: dict[bytes, tuple[float, tuple[bytes, ...]]] = {}  # until when, and the candidates
        self._places: dict[bytes, tuple[float, Place]] = {}  # by key, each with until when it counts

    def remembered(self, key: bytes, now: float) -> tuple[bytes, ...] | None:
        """The candidates as far as they are known without asking anybody; else None."""
        until, found = self._nearest.get(key, (0.0, ()))
        if now < until and all(map(self._may_coordinate, found)):
            return found
        table = self._knowledge.table
        if not table.sees_everybody:
            return None
        return self.remember(key, table.closest(position(kad_key(key)), self._knowledge.settings.k), now)

    def remember(self, key: bytes, contacts: Iterable[Contact], now: float) -> tuple[bytes, ...]:
        """Take the candidates from among these, and keep them for a while."""
        found = tuple(self._able(key, contacts))
        self._nearest.pop(key, None)
        self._nearest[key] = (now + NEAREST_LIFETIME, found)
        if len(self._nearest) > MOST_NEAREST:
            del self._nearest[next(iter(self._nearest))]
        return found

    def place(self, key: bytes, now: float) -> Place:
        """How close to the key we are. Who is wrong makes a node wait, search or go upstream for nothing."""
        until, place = self._places.get(key, (0.0, None))
        if place is None or now >= until:
            target, own_id = position(kad_key(key)), self._knowledge.own_id
            closest = self._knowledge.table.closest(target, CANDIDATES)
            own, last = distance(position(own_id), target), CANDIDATES - 1
            near = len(closest) <= last or own < distance(position(closest[last].id), target)
            place = Place(deputy=self._able(key, closest)[1:2] == [own_id], near=near)
            self._places.pop(key, None)
            self._places[key] = (now + PLACE_LIFETIME, place)
            if len(self._places) > MOST_NEAREST:
                del self._places[next(iter(self._places))]
        return place

    def _able(self, key: bytes, contacts: Iterable[Contact]) -> list[bytes]:
        """The candidates among these, ourselves and those that we are connected with, the closest first."""
        # Those that we are connected with, too, though they may be suspect now.
        target = position(kad_key(key))
        ids = {contact.id for contact in contacts} | {link.id for link in self._links} | {self._knowledge.own_id}
        nearest = sorted(ids, key=lambda peer_id: distance(position(peer_id), target))
        return list(islice(filter(self._may_coordinate, nearest), CANDIDATES))

    def _may_coordinate(self, peer_id: bytes) -> bool:
        """Whether it speaks the protocol as far as we know, and is not known to be gone."""
        if peer_id == self._knowledge.own_id:
            return True
        link = self._links.get(peer_id)
        if link is not None and link.identify is not None:
            return link.speaks(self._protocol)
        return not self._knowledge.table.is_suspect(peer_id, trio.current_time())
