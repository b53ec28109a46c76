"""All swarms of a coordinator, within bounds: so many digests, so many of one peer, so many peers. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from peili.follow.message import Peer
from peili.follow.settings import MAX_DIGESTS, MAX_DIGESTS_OF_PEER, MAX_ENTRIES, MAX_PEERS, FollowSettings
from peili.follow.swarm import Entry, Swarm

_LAST: Final = 1 << 62  # the sequence of who is not kept


class Swarms:
    """The swarms by key, the one that was touched longest ago first, and the keys of each peer."""

    def __init__(self, settings: FollowSettings) -> None:
        self._settings = settings
        self._swarms: OrderedDict[bytes, Swarm] = OrderedDict()
        self._of_peer: dict[bytes, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._swarms)

    def __contains__(self, key: bytes) -> bool:
        return key in self._swarms

    def __iter__(self) -> Iterator[Swarm]:
        return iter(self._swarms.values())

    def entries(self) -> Iterator[Entry]:
        """All entries of all swarms."""
        return (entry for swarm in self._swarms.values() for entry in swarm.entries.values())

    def get(self, key: bytes) -> Swarm | None:
        """The swarm of a key, where there is one."""
        return self._swarms.get(key)

    def of(self, key: bytes, total: int, now: float) -> Swarm:
        """The swarm of a key, new where there is none; the oldest goes where there are too many."""
        swarm = self._swarms.get(key)
        if swarm is None:
            swarm = self._swarms[key] = Swarm(self._settings, created=now)
            while len(self._swarms) > MAX_DIGESTS:
                oldest, dropped = self._swarms.popitem(last=False)
                for peer_id in dropped.entries:
                    self._unlist(peer_id, oldest)
        self._swarms.move_to_end(key)
        swarm.touched = now
        swarm.total = max(swarm.total, total)
        return swarm

    def entry(self, swarm: Swarm, key: bytes, peer: Peer, offset: int, now: float) -> Entry:
        """The peer's entry, new where it has none. Beyond the bounds, one that is not kept."""
        entry = swarm.entries.get(peer.id)
        if entry is not None:
            if entry.peer != peer:
                entry.peer = peer
            return entry
        if len(swarm.entries) >= MAX_ENTRIES or (peer.id not in self._of_peer and len(self._of_peer) >= MAX_PEERS):
            return Entry(peer, _LAST, joined=now, heard=now, offset=offset, stays_since=now)
        while len(self._of_peer.get(peer.id, ())) >= MAX_DIGESTS_OF_PEER:
            self.drop(next(iter(self._of_peer[peer.id])), peer.id)
        self._of_peer.setdefault(peer.id, OrderedDict())[key] = None
        return swarm.add(peer, offset, now)

    def drop(self, key: bytes, peer_id: bytes) -> None:
        """The peer's entry of this key goes."""
        self._swarms[key].remove(peer_id)
        self._unlist(peer_id, key)

    def forget_peer(self, peer_id: bytes) -> None:
        """All its entries go."""
        for key in list(self._of_peer.get(peer_id, ())):
            self.drop(key, peer_id)

    def expire(self, now: float) -> None:
        """Drop what was not heard of for too long."""
        for key, swarm in list(self._swarms.items()):
            for peer_id in swarm.expire(now):
                self._unlist(peer_id, key)
            if not swarm.entries and now - swarm.touched >= self._settings.entry_lifetime:
                del self._swarms[key]

    def _unlist(self, peer_id: bytes, key: bytes) -> None:
        listed = self._of_peer.get(peer_id)
        if listed is not None:
            listed.pop(key, None)
            if not listed:
                del self._of_peer[peer_id]
