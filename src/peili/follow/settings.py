"""The numbers of this room, in one frozen value: what is a setting of `peili run`, and what is fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_DIGESTS: Final = 4096  # that one coordinator keeps; the one heard of longest ago goes first
MAX_ENTRIES: Final = 2048  # nodes of one digest; those beyond get sources, and are not remembered
MAX_DIGESTS_OF_PEER: Final = 256  # in which one peer may have an entry; the next evicts its own oldest
MAX_PEERS: Final = 8192  # with entries on one coordinator
_PAUSES: Final = 2.0  # the usual pause between two growths, before one is a stall


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """Times in seconds, sizes in bytes, rates in bytes a second.

    `fan_out`: children of one source and digest that a coordinator plans; a source refuses only beyond twice that,
    because a plan is always a little old. `slots`: how many downloads this node's containerd runs at once over
    all pulls (2.1 and newer; 0: no such limit). `link_rate`: what a node is taken to send of one digest, a
    third of 1 Gbit/s as three layers come at once; it only weighs a second child against a longer chain.
    """

    fan_out: int = 4
    max_leads: int = 3
    slots: int = 3
    # How long a follower waits for a lead that has not grown. containerd writes 1 MiB at a time: where several
    # layers share 100 Mbit/s, one was seen to need 1.1 s for its first, and a second lead only adds to that load.
    lapse: float = 3.0
    # The same where that lead says that it queues behind other downloads of its node, which go on: who leads beside
    # it fetches what its containerd fetches as well when its turn comes.
    queued_patience: float = 12.0
    queued: float = 60.0  # how long a lead may wait in containerd's queue (2.1 and newer), which it says by Renews
    stall: float = 2.0
    # The same below a lead that says that other downloads of its node, which go on, take its share of the link. Of
    # four layers over 100 Mbit/s one was seen to get nothing for 2.6 s; a second lead only adds to that load.
    outrun: float = 4.0
    stall_per_level: float = 0.5
    longest_stall: float = 6.0
    suspicion: float = 0.4  # without a byte: ask the coordinator, which knows whether the source is alive
    renew_interval: float = 0.5
    committed_renew_interval: float = 1.0  # of who follows a node that has all of it: little is to be found out
    manifest_wait: float = 0.3
    entry_lifetime: float = 5.0  # without a Renew, beyond the interval that it was told
    committed_lifetime: float = 120.0  # after which the provider records have to tell of it
    hop: float = 0.003  # what one more level costs until its first byte
    link_rate: float = 40e6

    def stall_limit(self, depth: int, pause: float = 0.0, *, outrun: bool = False) -> float:
        """How long a follower at this depth waits for a byte: longer further down, so that the nearest acts.

        `pause`: the usual one between two growths, in seconds; a slow upstream is no stall. `outrun`: see above.
        """
        first = max(self.stall, self.outrun if outrun else 0.0, _PAUSES * pause)
        return min(first + self.stall_per_level * max(depth - 1, 0), self.longest_stall)

    def first_growth_limit(self, depth: int) -> float:
        """The same for the first byte: whoever is nearer to the upstream has given the lead up before."""
        return min(self.lapse + self.stall_per_level * depth, self.longest_stall)
