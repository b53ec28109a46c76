"""The table of a host's authenticated connections, by peer: who is in it, who makes room, who is given up."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from peili.libp2p.connection import Connection
from peili.libp2p.errors import DialError
from peili.libp2p.peer_id import PeerId
from peili.libp2p.table import preferred, to_trim

MAX_PER_PEER: Final = 4  # connections with one peer; simultaneous dials make two
DUPLICATE_AGE: Final = 30.0  # seconds after which a second, unused connection to a peer is given up
MIN_DRAINING: Final = 5.0  # seconds for streams that were on their way when we said that we take no more
MAX_DRAINING: Final = 120.0  # seconds that the streams of a connection which is given up may go on


class Fate(Enum):
    """What becomes of a connection at one look."""

    KEEP = auto()
    DRAIN = auto()
    RETIRE = auto()


class Roster:
    """The connections of the host with this id, at most `limit`. Times in seconds of the caller's clock."""

    def __init__(self, own: PeerId, limit: int) -> None:
        self._own, self._limit = own, limit
        self._peers: dict[PeerId, list[Connection]] = {}
        self._count = 0
        self._draining: dict[Connection, float] = {}  # since when

    def all(self) -> tuple[Connection, ...]:
        """All of them."""
        return tuple(one for several in self._peers.values() for one in several)

    def of(self, peer_id: PeerId) -> tuple[Connection, ...]:
        """Those with one peer, in the order in which they came."""
        return tuple(self._peers.get(peer_id, ()))

    def preferred(self, peer_id: PeerId) -> Connection | None:
        """The one to open streams on."""
        usable = (one for one in self._peers.get(peer_id, ()) if not one.closed and not one.draining)
        return preferred(usable, self._own)

    def make_room(self, coming: Connection, now: float) -> list[Connection]:
        """Those that have to leave for a new one. Raise DialError where all are in use."""
        siblings = self._peers.get(coming.peer_id, [])
        if len(siblings) >= MAX_PER_PEER:
            return siblings[:1]
        if self._count < self._limit:
            return []
        victim = to_trim(self.all(), now)
        if victim is None:
            raise DialError(f"{self._count} connections are open already, all in use", coming.peer_id)
        return [victim]

    def add(self, connection: Connection) -> None:
        """Enter a connection."""
        self._peers.setdefault(connection.peer_id, []).append(connection)
        self._count += 1

    def remove(self, connection: Connection) -> None:
        """Take a connection out; fine where it is not there."""
        self._draining.pop(connection, None)
        siblings = self._peers.get(connection.peer_id, [])
        if connection in siblings:
            siblings.remove(connection)
            self._count -= 1
            if not siblings:
                del self._peers[connection.peer_id]

    def fate(self, connection: Connection, now: float) -> Fate:
        """Give up the second connection to a peer once nobody uses it, in two steps, so that no stream is lost."""
        streams = connection.yamux.open_streams
        if connection.draining:
            drained = now - self._draining.setdefault(connection, now)
            done = drained >= MAX_DRAINING or (not streams and drained >= MIN_DRAINING)
            return Fate.RETIRE if done else Fate.KEEP
        unused = not streams and now - connection.last_used >= DUPLICATE_AGE
        duplicate = connection is not self.preferred(connection.peer_id)
        return Fate.DRAIN if duplicate and unused else Fate.KEEP
