"""What a node takes the network to be while it plans: a set of peers, and who of them is closest to what."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import position

MAX_VIEW: Final = 2000  # peers; those beyond are left out


class View:
    """Peers from the table and from a lookup, for `republish.batches` and the like. Cheap to make anew."""

    def __init__(self, contacts: Iterable[Contact], k: int = 20) -> None:
        self._k = k
        self._contacts: dict[bytes, Contact] = {}
        for contact in contacts:
            if len(self._contacts) < MAX_VIEW:
                self._contacts.setdefault(contact.id, contact)
        self._by_position = {position(peer_id): peer_id for peer_id in self._contacts}

    def __len__(self) -> int:
        return len(self._contacts)

    def __getitem__(self, peer_id: bytes) -> Contact:
        return self._contacts[peer_id]

    def closest(self, target: int) -> list[bytes]:
        """The ids of the (at most k) closest peers to a position, nearest first."""
        return [self._by_position[where] for where in sorted(self._by_position, key=target.__xor__)[: self._k]]

    def holders(self, target: int) -> Collection[bytes]:
        """The same in any order: everybody where there are no more than k, without a look at the distance."""
        return self._contacts.keys() if len(self._contacts) <= self._k else self.closest(target)
