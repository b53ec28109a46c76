"""The provider's side: which peers are told of which keys, and when."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import trio

from peili.beat import next_beat
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import digest_position, kad_key
from peili.kademlia.message import MessageType
from peili.kademlia.republish import Batch, Region, Republisher, batches
from peili.kademlia.view import View
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.lookups import Lookups
from peili.routing.kademlia.outbox import Outbox
from peili.routing.kademlia.signal import Signal

GATHER_TIME: Final = 0.05  # seconds for which new keys and new peers are gathered before they are told
# What one new peer is told, after a wait of as long as that takes: it reads its own store first, and twenty others
# have as much to tell.
KEYS_A_SECOND: Final = 5000
LONGEST_WAIT: Final = 3.0  # seconds
SWEEP_PAUSE: Final = 1.0  # seconds between looks at what is due
REMEMBERED_HOLDERS: Final = 512  # peers beyond the table that hold records of ours
KEYS_AT_ONCE: Final = 500  # withdrawn between two checkpoints: finding the closest peers of each takes a while
NEAR_REGION: Final = 3  # times k: so many peers around a region are looked at for its keys


class Announcer:
    """Keeps the closest peers of each own key told."""

    def __init__(self, knowledge: Knowledge, lookups: Lookups, outbox: Outbox) -> None:
        self.keys: set[bytes] = set()  # digests of the keys that this node provides
        self._knowledge = knowledge
        self._lookups = lookups
        self._outbox = outbox
        self._republisher = Republisher(knowledge.settings.republish_interval, knowledge.settings.k)
        self._holders: dict[bytes, Contact] = {}  # met in lookups for own keys, the latest last
        self._withdrawn: set[bytes] = set()
        self._moves: dict[bytes, bool] = {}  # peers that joined (True) or left, and are to be dealt with
        self._telling: dict[bytes, trio.CancelScope] = {}  # peers because of whose moves others are told now
        self._new_keys, self._gone_keys, self._moved = Signal(), Signal(), Signal()

    def provide(self, keys: Collection[bytes]) -> None:
        """These keys are ours from now on."""
        fresh = [key for key in keys if key not in self.keys]
        if not fresh:
            return
        self.keys.update(fresh)
        self._withdrawn.difference_update(fresh)
        self._republisher.add(fresh)
        self._new_keys.ring()

    def stop_providing(self, keys: Collection[bytes]) -> None:
        """These keys are ours no longer."""
        gone = self.keys.intersection(keys)
        if not gone:
            return
        self.keys -= gone
        self._republisher.remove(gone)
        self._withdrawn |= gone
        self._gone_keys.ring()

    def joined(self, peer_id: bytes) -> None:
        """A peer is there anew: it may have forgotten us, or is new among the closest of some keys."""
        self._moves[peer_id] = True
        self._moved.ring()

    def left(self, peer_id: bytes) -> None:
        """A peer is gone: where it was among the closest, the next one is told."""
        self._holders.pop(peer_id, None)
        if (telling := self._telling.get(peer_id)) is not None:
            telling.cancel()
        if self._knowledge.table.sees_everybody:
            self._moves.pop(peer_id, None)  # nobody takes its place
        else:
            self._moves[peer_id] = False
            self._moved.ring()

    async def run(self) -> None:
        """Tell new keys soon, withdraw at once, and tell everything again before it expires; until cancelled."""
        if not self._knowledge.settings.registry_port:
            return  # nobody could fetch anything from us
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_as_due)
            nursery.start_soon(self._withdraw_as_they_go)
            nursery.start_soon(self._follow_moves)

    async def _tell_as_due(self) -> None:
        while True:
            for region in self._republisher.due(trio.current_time(), self._knowledge.table.estimated_size()):
                await self._tell(region)
            with trio.move_on_at(next_beat(trio.current_time(), SWEEP_PAUSE)):
                await self._new_keys.wait()
                await trio.sleep(GATHER_TIME)

    async def _tell(self, region: Region) -> None:
        await self._outbox.wait_room()
        view = await self._around(region.target)
        keys = [key for key in region.keys if key in self.keys]  # some may have gone meanwhile
        self._send(batches(keys, view.holders), view)
        self._republisher.told(keys, trio.current_time())
        await trio.lowlevel.checkpoint()

    async def _withdraw_as_they_go(self) -> None:
        while True:
            await self._gone_keys.wait()
            gone, self._withdrawn = list(self._withdrawn), set()
            view = self._view()
            for at in range(0, len(gone), KEYS_AT_ONCE):
                self._send(batches(gone[at : at + KEYS_AT_ONCE], view.holders), view, provided=False)
                await trio.lowlevel.checkpoint()

    async def _follow_moves(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._moved.wait()
                await trio.sleep(GATHER_TIME)
                moves, self._moves = self._moves, {}
                for peer_id, joined in moves.items():
                    if (before := self._telling.get(peer_id)) is not None:
                        before.cancel()
                    scope = self._telling[peer_id] = trio.CancelScope()
                    nursery.start_soon(self._follow_move, peer_id, joined, scope)

    async def _follow_move(self, peer_id: bytes, joined: bool, scope: trio.CancelScope) -> None:
        with scope:
            if joined:
                await trio.sleep(min(len(self.keys) / KEYS_A_SECOND, LONGEST_WAIT))
            view, planned = self._view(), list[Batch]()
            moved = (
                self._republisher.joined(peer_id, view.holders)
                if joined
                else self._republisher.left(peer_id, view.closest)
            )
            for batch in moved:
                planned.append(batch)
                await trio.lowlevel.checkpoint()
            for batch in planned:
                await self._outbox.wait_room()
                self._send([batch], view)
                await trio.sleep(len(batch.keys) / KEYS_A_SECOND)
        if self._telling.get(peer_id) is scope:
            del self._telling[peer_id]

    async def _around(self, target: bytes) -> View:
        """The peers closest to a region of keys: all where all are known, else by a lookup."""
        table, k = self._knowledge.table, self._knowledge.settings.k
        if table.sees_everybody:
            return View(table.peers(), k)
        lookup = await self._lookups.run(kad_key(target), MessageType.FIND_NODE)
        found = lookup.closest(k)
        for contact in found:
            self._remember(contact)
        return View([*found, *table.closest(digest_position(target), NEAR_REGION * k)], k)

    def _remember(self, contact: Contact) -> None:
        self._holders.pop(contact.id, None)
        self._holders[contact.id] = contact
        if len(self._holders) > REMEMBERED_HOLDERS:
            del self._holders[next(iter(self._holders))]

    def _view(self) -> View:
        now, table = trio.current_time(), self._knowledge.table
        holders = [contact for contact in self._holders.values() if not table.is_suspect(contact.id, now)]
        return View([*table.peers(), *holders], self._knowledge.settings.k)

    def _send(self, planned: Iterable[Batch], view: View, *, provided: bool = True) -> None:
        for batch in planned:
            # What the planner took a moment ago may have been decided otherwise since.
            keys = [key for key in batch.keys if (key in self.keys) is provided]
            if keys:
                self._outbox.tell(view[batch.peer_id], keys, provided=provided)
