"""The peers behind provider records: each stored once, records name them by index."""

from __future__ import annotations

from typing import Final

from peili.kademlia.contact import Contact

MAX_PROVIDERS: Final = 5000  # peers that have a record here; some 500 bytes each


class Provider:
    """One peer with records. `gone`: said goodbye; its index is free again when its last record was swept."""

    __slots__ = ("contact", "gone", "index", "records", "suspect")

    def __init__(self, contact: Contact, index: int) -> None:
        self.contact = contact
        self.index = index
        self.records = 0
        self.suspect = False
        self.gone = False


class Providers:
    """Peers by id and by index."""

    def __init__(self, limit: int = MAX_PROVIDERS) -> None:
        self._limit = limit
        self._by_id: dict[bytes, Provider] = {}
        self._by_index: dict[int, Provider] = {}
        self._next_index = 0

    def __len__(self) -> int:
        return len(self._by_index)

    def take_in(self, contact: Contact) -> Provider | None:
        """The entry of this peer, alive and with its newest addresses; None where there are too many peers."""
        entry = self._by_id.get(contact.id)
        if entry is None:
            if len(self._by_index) >= self._limit:
                return None
            entry = Provider(contact, self._free_index())
            self._by_id[contact.id] = self._by_index[entry.index] = entry
        entry.contact, entry.suspect = contact, False
        return entry

    def _free_index(self) -> int:
        while self._next_index in self._by_index:
            self._next_index = (self._next_index + 1) & 0xFFFF_FFFF
        return self._next_index

    def let_go(self, entry: Provider) -> None:
        """Forget a peer without records."""
        if entry.records == 0:
            self._by_index.pop(entry.index, None)
            if self._by_id.get(entry.contact.id) is entry:
                del self._by_id[entry.contact.id]

    def lost_record(self, index: int) -> None:
        """One record of this peer was dropped."""
        entry = self._by_index[index]
        entry.records -= 1
        self.let_go(entry)

    def goodbye(self, peer_id: bytes) -> None:
        """The peer left. If it comes back before the sweep it gets a new index, so old records stay dead."""
        entry = self._by_id.pop(peer_id, None)
        if entry is not None:
            entry.gone = True

    def set_suspect(self, peer_id: bytes, *, suspect: bool) -> None:
        """Whether the last attempt at this peer failed."""
        entry = self._by_id.get(peer_id)
        if entry is not None:
            entry.suspect = suspect

    def get(self, peer_id: bytes) -> Provider | None:
        """The entry of a peer that did not leave."""
        return self._by_id.get(peer_id)

    def contact(self, index: int) -> Contact:
        """Whose index this is."""
        return self._by_index[index].contact

    def is_answerable(self, index: int) -> bool:
        """Whether this provider may be named in an answer."""
        entry = self._by_index[index]
        return not entry.gone and not entry.suspect

    def is_gone(self, index: int) -> bool:
        """Whether this provider said goodbye."""
        return self._by_index[index].gone

    def dead_records(self) -> int:
        """How many records are of peers that said goodbye."""
        return sum(entry.records for entry in self._by_index.values() if entry.gone)

    def greediest(self) -> Provider:
        """The peer with the most records; one that left before all others. There must be one."""
        return max(self._by_index.values(), key=lambda entry: (entry.gone, entry.records))
