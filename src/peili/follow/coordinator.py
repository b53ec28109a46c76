"""The coordinator's table: per digest, who fetches it, from whom, at which offset. Pure; in memory only.

The two live nodes closest to a key keep its table, each by itself; every message goes to both, the closer one's
answer counts. What is lost with a coordinator comes back with the next Renew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peili.follow.message import Follow, Join, Keep, Lead, Leave, Peer, Renew, Wait
from peili.follow.settings import FollowSettings


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

    def __init__(self, settings: FollowSettings) -> None: ...

    def join(self, peer: Peer, join: Join, now: float) -> Lead | Follow | Wait:
        """A node wants this digest. `peer.id` and `peer.host` are those of its connection."""
        raise NotImplementedError

    def renew(self, peer: Peer, renew: Renew, now: float) -> Keep | Follow | Lead:
        """A node still fetches it; Follow: change to one of these; Lead: leave your source, go upstream."""
        raise NotImplementedError

    def leave(self, peer: Peer, leave: Leave, now: float) -> Keep:
        """A node fetches it no longer. Only its own entry changes."""
        raise NotImplementedError

    def provided(self, key: bytes, peers: Sequence[Peer], now: float) -> None:
        """These nodes have committed it, as the provider records say."""

    def forget_peer(self, peer_id: bytes) -> None:
        """This node said goodbye, or its connection is lost: all its entries go."""

    def expire(self, now: float) -> None:
        """Drop what was not heard of for too long; call it every second or so."""

    def statistics(self) -> CoordinatorStatistics:
        """A frozen snapshot."""
        raise NotImplementedError
