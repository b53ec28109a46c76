"""What is still to be told to each peer: keys that this node provides, or provides no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import kad_key
from peili.kademlia.message import InvalidMessage, Message, MessageType, encode
from peili.kademlia.own_message import MAX_KEYS, Provide, Withdraw, decode_own, encode_own
from peili.libp2p.host import Libp2pError
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, NotAsked, PeerFailed

TELL_TIMEOUT: Final = 5.0  # seconds for one batch
NOT_ASKED_PAUSE: Final = 1.0  # seconds until a peer is told that there was no descriptor for
PARALLEL_TELLS: Final = 16
MOST_PENDING: Final = 50_000  # keys over all peers; the sweep waits above it

Resolve = Callable[[bytes], Contact | None]


class Outbox:
    """One task for each peer that has something to hear. Of several words on a key the last is told."""

    def __init__(self, knowledge: Knowledge, links: Links, *, own_contact: Callable[[], Contact]) -> None:
        self._knowledge = knowledge
        self._links = links
        self._own_contact = own_contact
        self._pending: dict[bytes, dict[bytes, bool]] = {}  # peer -> key -> provided (or withdrawn)
        self._count = 0
        self._turns = trio.CapacityLimiter(PARALLEL_TELLS)
        self._room = trio.Event()
        self.nursery: trio.Nursery | None = None  # the router's, while it runs

    def tell(self, contact: Contact, keys: Iterable[bytes], *, provided: bool) -> None:
        """Tell this peer in the background that we provide these keys, or no longer do."""
        if self.nursery is None:
            return
        pending = self._pending.get(contact.id)
        if pending is None:
            pending = self._pending[contact.id] = {}
            self.nursery.start_soon(self._drain, contact, pending)
        before = len(pending)
        for key in keys:
            pending.pop(key, None)  # it goes to the end of the order
            pending[key] = provided
        self._count += len(pending) - before

    async def wait_room(self) -> None:
        """Wait until little enough is pending."""
        while self._count > MOST_PENDING:
            await self._room.wait()

    async def _drain(self, contact: Contact, pending: dict[bytes, bool]) -> None:
        try:
            while pending:
                try:
                    async with self._turns:
                        await self._send(contact, pending)
                except NotAsked:
                    await trio.sleep(NOT_ASKED_PAUSE)
        except PeerFailed:
            # A peer that comes back is told everything anew, so nothing needs to be kept for it.
            self._knowledge.failed(contact.id)
        finally:
            self._took(len(pending))
            del self._pending[contact.id]

    def _next_batch(self, pending: dict[bytes, bool]) -> tuple[list[bytes], bool]:
        """The longest run from the front that says the same of its keys."""
        batch, provided = list[bytes](), next(iter(pending.values()), True)
        for key, value in pending.items():
            if value is not provided or len(batch) == MAX_KEYS:
                break
            batch.append(key)
        for key in batch:
            del pending[key]
        self._took(len(batch))
        return batch, provided

    def _took(self, count: int) -> None:
        self._count -= count
        if self._count <= MOST_PENDING:
            self._room.set()
            self._room = trio.Event()

    async def _send(self, contact: Contact, pending: dict[bytes, bool]) -> None:
        link = await self._links.reach(self._knowledge.best_known(contact)[0])
        keys, provided = self._next_batch(pending)
        try:
            with trio.fail_after(TELL_TIMEOUT):
                if link.speaks(self._knowledge.settings.own_protocol):
                    await self._send_own(link, keys, provided)
                elif provided and link.speaks(self._knowledge.settings.kad_protocol):
                    await self._send_records(link, keys)
        except trio.TooSlowError as error:
            raise PeerFailed(f"not told within {TELL_TIMEOUT:g} s") from error
        except (Libp2pError, InvalidMessage) as error:
            raise PeerFailed(str(error)) from error

    async def _send_own(self, link: Link, keys: list[bytes], provided: bool) -> None:
        settings = self._knowledge.settings
        message = (
            Provide(tuple(keys), int(settings.record_lifetime), settings.registry_port, settings.zone)
            if provided
            else Withdraw(tuple(keys))
        )
        decode_own(await link.own.request(encode_own(message)))

    async def _send_records(self, link: Link, keys: list[bytes]) -> None:
        """One plain message a key, as the specification has it; others forget the record when it expires."""
        contact = self._own_contact()
        if not contact.addresses:
            return  # they take no record without an address
        for key in keys:
            message = Message(MessageType.ADD_PROVIDER, kad_key(key), provider_peers=(contact,))
            await link.kad.send(encode(message))
