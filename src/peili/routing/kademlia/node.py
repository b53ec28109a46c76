"""The Kademlia router: the pure core of peili.kademlia and the wire of peili.libp2p, joined into one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, Protocol

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import key_digest
from peili.kademlia.message import Message, MessageType
from peili.kademlia.own_message import Goodbye, encode_own
from peili.libp2p.host import Connection, Host, Libp2pError
from peili.libp2p.identity import Identity, IdentityError
from peili.libp2p.multiaddr import Multiaddr
from peili.oci.key import Key
from peili.routing import fetch
from peili.routing.kademlia.addresses import bound_addresses, is_loopback, listen, source_addresses, told_addresses
from peili.routing.kademlia.announce import Announcer
from peili.routing.kademlia.coordination import Coordination
from peili.routing.kademlia.joining import Joining
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links, PeerFailed
from peili.routing.kademlia.lookups import Lookups
from peili.routing.kademlia.members import Door, Members
from peili.routing.kademlia.outbox import Outbox
from peili.routing.kademlia.search import ProviderSearch, known_providers
from peili.routing.kademlia.serve import Server
from peili.routing.kademlia.settings import IDENTITY_FILE, KademliaSettings
from peili.routing.kademlia.upkeep import Upkeep
from peili.routing.protocol import PeerStatistics, Provider, RouterStatistics
from peili.routing.resolve import Fetch

GOODBYE_TIMEOUT: Final = 1.0  # seconds for all goodbyes together


class Log(Protocol):
    """Takes the few events of a router that are worth a line."""

    def __call__(self, event: str, **fields: object) -> None:
        """Log one event."""
        ...


def _silent(event: str, **fields: object) -> None:
    pass


class KademliaRouter:
    """A Router that is found by, and finds, the nodes with the same prefix. It runs once."""

    def __init__(
        self,
        settings: KademliaSettings,
        *,
        log: Log = _silent,
        fetch: Fetch = fetch.fetch,
        members: Members | None = None,
    ) -> None:
        """Read or make the identity; raise OSError where its file cannot be used. No `members`: all may come."""
        identity = _identity(settings)
        self._settings = settings
        self._log = log
        self._door = Door(members, log)
        self._host = Host(
            identity,
            agent_version=settings.agent,
            registry_port=settings.registry_port,
            zone=settings.zone,
            limits=settings.limits,
            source_addresses=source_addresses(settings),
            verify_peer=self._door.lets_in,
            extra_extensions=self._door.extensions,
        )
        self._host.on_refused = self._door.refuse
        if members is not None:
            members.on_change(self._host.renew)
        self._knowledge = Knowledge(identity.peer_id.to_bytes(), settings)
        self._links = Links(self._host, settings, dial_loopback=is_loopback(settings))
        self._lookups = Lookups(self._knowledge, self._links)
        self._outbox = Outbox(self._knowledge, self._links, own_contact=self._own_contact)
        self._announcer = Announcer(self._knowledge, self._lookups, self._outbox)
        self._joining = Joining(self._host, self._knowledge, self._links, fetch)
        self._upkeep = Upkeep(self._knowledge, self._links, self._lookups)
        self.coordination: Coordination | None = None  # where the settings ask for it
        if settings.follow is not None:
            self.coordination = Coordination(
                self._knowledge,
                self._links,
                self._lookups,
                settings.follow,
                own_contact=self._own_contact,
                provided=self._announcer.keys,
            )
        self._own = Contact(self._knowledge.own_id, (), settings.registry_port, settings.zone)
        self._addresses: tuple[Multiaddr, ...] = ()
        self._ready = trio.Event()
        self._nursery: trio.Nursery | None = None  # of the work, while it runs
        self._said_joined = False
        self._said_problem = ""

    @property
    def peer_id(self) -> str:
        """This node's id as text."""
        return str(self._host.peer_id)

    # The Router protocol

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled, then say goodbye. Raise OSError where the address is in use."""
        listeners = await listen(self._settings.listen_host, self._settings.listen_port)
        bound = bound_addresses(listeners)
        self._addresses = tuple(told_addresses(bound, self._settings.advertise))
        binary = tuple(address.to_bytes() for address in self._addresses)
        self._own = Contact(self._own.id, binary, self._own.registry_port, self._own.zone)
        self._links.own_hosts = frozenset(address.host for address in self._addresses)
        self._joining.default_port = bound[0][1]
        self._joining.add_own([*bound, *((address.host, address.port or 0) for address in self._addresses)])
        self._set_callbacks()
        async with trio.open_nursery() as nursery:
            host_scope = trio.CancelScope(shield=True)  # it outlives our cancellation by the goodbyes
            await nursery.start(self._run_host, listeners, host_scope)
            try:
                await self._work(task_status)
            finally:
                with trio.move_on_after(GOODBYE_TIMEOUT, shield=True):
                    await self._say_goodbye()
                host_scope.cancel()

    async def provide(self, keys: Collection[Key]) -> None:
        """Tell the closest peers of these keys that this node has them."""
        self._announcer.provide([key_digest(key) for key in keys])
        await trio.lowlevel.checkpoint()

    async def stop_providing(self, keys: Collection[Key]) -> None:
        """Take these keys back."""
        self._announcer.stop_providing([key_digest(key) for key in keys])
        await trio.lowlevel.checkpoint()

    def find_providers(
        self, key: Key, *, beside_coordinators: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Provider]]:
        """The providers that we are connected with first, of these the same zone first, then in random order."""
        digest = key_digest(key)
        spared: tuple[bytes, ...] = ()
        if beside_coordinators and self.coordination is not None:
            spared = self.coordination.answering(digest)
        return ProviderSearch(digest, self._knowledge, self._links, self._lookups, spared)

    def known_providers(self, key: Key) -> list[Provider]:
        """Of those that our own records name, the ones that we are connected with."""
        return known_providers(key_digest(key), self._knowledge, self._links)

    async def wait_ready(self) -> None:
        """Wait until a peer has answered, or bootstrap yielded no address but our own."""
        await self._ready.wait()

    def statistics(self) -> RouterStatistics:
        """A frozen snapshot."""
        connected = {
            link.id: _peer_statistics(link) for link in self._links if link.speaks(self._settings.kad_protocol)
        }
        return RouterStatistics(
            kind="kademlia",
            peer_id=self.peer_id,
            listen_addresses=tuple(map(str, self._addresses)),
            peers=tuple(connected.values()),
            provided_keys=len(self._announcer.keys),
            records=self._knowledge.records.live,
            bootstrap_problem="" if connected else self._joining.problem,
            alone=self._joining.alone and not connected,
            refused_peers=self._door.refused,
        )

    # What runs

    async def _run_host(
        self,
        listeners: list[trio.SocketListener],
        scope: trio.CancelScope,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope:
            await self._host.run(listeners, listen_addresses=self._addresses, task_status=task_status)

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = self._lookups.nursery = self._outbox.nursery = nursery
                for link in self._links:  # who came before we could greet
                    nursery.start_soon(self._links.greet, link, self._identified, self._greet)
                nursery.start_soon(self._announcer.run)
                nursery.start_soon(self._upkeep.run)
                if self.coordination is not None:
                    nursery.start_soon(self.coordination.run)
                nursery.start_soon(self._joining.run)
                nursery.start_soon(self._watch_rounds)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:  # before the tasks end: the host, which outlives them, must start no more
                    self._nursery = self._lookups.nursery = self._outbox.nursery = None
        finally:
            self._nursery = self._lookups.nursery = self._outbox.nursery = None

    async def _watch_rounds(self) -> None:
        while True:
            await self._joining.changed.wait()
            if self._joining.alone:
                self._ready.set()
            problem = self._joining.problem
            if problem and problem != self._said_problem:
                self._log("bootstrap found no peer", problem=problem)
            self._said_problem = problem

    async def _say_goodbye(self) -> None:
        """Our kind forgets us at once; others would take any last word for a fresh record."""
        body = encode_own(Goodbye())
        leaving = {link.id: link for link in self._links if link.speaks(self._settings.own_protocol)}
        async with trio.open_nursery() as nursery:
            for link in leaving.values():
                nursery.start_soon(_send_goodbye, link, body)

    # What happens

    def _set_callbacks(self) -> None:
        server = Server(self._knowledge, self._links, own_contact=self._own_contact, provided=self._announcer.keys)
        server.on_request = self._upkeep.asked_by
        self._host.set_handler(self._settings.kad_protocol, server.serve_kad)
        self._host.set_handler(self._settings.own_protocol, server.serve_own)
        if self.coordination is not None:
            self._host.set_handler(self.coordination.protocol, self.coordination.coordinating.serve)
        self._host.on_connected = self._connected
        self._host.on_disconnected = self._disconnected
        self._knowledge.on_member = self._member
        self._knowledge.on_lost = self._announcer.left

    def _own_contact(self) -> Contact:
        return self._own

    def _connected(self, connection: Connection) -> None:
        link = self._links.of(connection)
        if self._nursery is not None:
            self._nursery.start_soon(self._links.greet, link, self._identified, self._greet)

    def _identified(self, link: Link) -> None:
        """A peer of our kind tells everything anew on a connection after a pause; what it told before is void."""
        others = [other for other in self._links if other.id == link.id and other is not link and other.identify]
        if link.speaks(self._settings.own_protocol) and not others:
            self._knowledge.records.goodbye(link.id)
            if self.coordination is not None:
                self.coordination.coordinating.joined()

    async def _greet(self, link: Link) -> None:
        """Who answers one question is a peer, and is told what concerns it."""
        if not link.speaks(self._settings.kad_protocol):
            return
        try:
            await self._lookups.ask(link, Message(MessageType.FIND_NODE, self._knowledge.own_id))
        except PeerFailed:
            if not link.connection.closed:
                self._knowledge.failed(link.id)
        else:
            self._member(link)

    def _member(self, link: Link) -> None:
        """A peer is new in the table, is back, or has a new connection."""
        self._announcer.joined(link.id)
        if self.coordination is not None:
            self.coordination.coordinating.joined()
        self._upkeep.met(link.id)
        self._ready.set()
        if not self._said_joined:
            self._said_joined = True
            self._log("joined", peer=str(link.connection.peer_id), host=link.host)

    def _disconnected(self, connection: Connection) -> None:
        peer_id = connection.peer_id.to_bytes()
        self._links.forget(connection)
        if self._nursery is None or self._links.get(peer_id) is not None:
            return
        if self.coordination is not None:
            self.coordination.lost(peer_id)
        self._nursery.start_soon(self._upkeep.lost, peer_id, connection.draining)
        if not len(self._links) and self._said_joined:
            self._said_joined = False
            self._log("lost all peers")
            self._joining.hurry()


def _identity(settings: KademliaSettings) -> Identity:
    if settings.identity_directory is None:
        return Identity.generate()
    try:
        return Identity.load_or_create(settings.identity_directory / IDENTITY_FILE)
    except IdentityError as error:
        raise OSError(str(error)) from error


def _peer_statistics(link: Link) -> PeerStatistics:
    assert link.identify is not None
    return PeerStatistics(
        peer_id=str(link.connection.peer_id),
        host=link.host,
        registry_port=link.identify.registry_port,
        agent=link.identify.agent_version,
        connected=not link.connection.closed,
    )


async def _send_goodbye(link: Link, body: bytes) -> None:
    with suppress(Libp2pError):  # it is gone itself
        await link.own.request(body)  # its answer means that it was understood
