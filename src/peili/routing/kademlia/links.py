"""Links: this node's connections to peers, with what each peer said of itself and the streams to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.message import MAX_ANSWER_SIZE
from peili.kademlia.own_message import MAX_SIZE
from peili.libp2p.host import CannotDial, Connection, DialError, Host, Identify, Libp2pError
from peili.libp2p.multiaddr import InvalidMultiaddr, Multiaddr
from peili.libp2p.peer_id import InvalidPeerId, PeerId
from peili.routing.kademlia.exchange import StreamPool
from peili.routing.kademlia.settings import KademliaSettings

DIAL_TIMEOUT: Final = 1.0  # seconds, for all addresses of a peer
REACH_TIMEOUT: Final = 1.25  # seconds, with the identify after a dial
IDENTIFY_TIMEOUT: Final = 5.0  # seconds from the handshake on
PARALLEL_DIALS: Final = 32
DIALED_ADDRESSES: Final = 3  # of one peer in one attempt
UNREACHABLE_TIME: Final = 10.0  # seconds for which an address that failed is not tried again by lookups
REMEMBERED_FAILURES: Final = 1024
LISTEN_PORTS: Final = 2  # kept of what a peer says it listens on


class PeerFailed(Exception):
    """A peer could not be reached, or did not answer as it must; the text says which of them."""


class NotAsked(PeerFailed):
    """This node had not the means to ask it, which says nothing of the peer."""


class Link:
    """One authenticated connection."""

    __slots__ = ("_contact", "connection", "greeted", "identify", "kad", "own")

    def __init__(self, connection: Connection, settings: KademliaSettings) -> None:
        self.connection = connection
        self.identify: Identify | None = None
        self._contact: Contact | None = None
        self.greeted = trio.Event()  # identify is there, or will never be
        self.kad = StreamPool(connection, settings.kad_protocol, MAX_ANSWER_SIZE)
        self.own = StreamPool(connection, settings.own_protocol, MAX_SIZE)

    @property
    def id(self) -> bytes:
        """The peer's id as messages carry it."""
        return self.connection.peer_id.to_bytes()

    @property
    def host(self) -> str:
        """The peer's IP address, as the connection shows it: the only word on it that counts."""
        return self.connection.remote[0]

    async def known(self) -> None:
        """Wait until the peer has said what it is: whose word a request is must be known, and its ports."""
        if not self.greeted.is_set():
            with trio.move_on_after(IDENTIFY_TIMEOUT):
                await self.greeted.wait()

    def speaks(self, protocol: str) -> bool:
        """Whether the peer's identify lists the protocol."""
        return self.identify is not None and protocol in self.identify.protocols

    def contact(self) -> Contact:
        """The peer as others may be told: its IP address from the connection, its ports from its identify."""
        if self._contact is None:  # asked for only after identify
            registry_port, zone = 0, ""
            if self.identify is not None:
                registry_port, zone = self.identify.registry_port, self.identify.zone
            addresses = tuple(Multiaddr.of(host, port).to_bytes() for host, port in self.places())
            self._contact = Contact(self.id, addresses, registry_port, zone)
        return self._contact

    def places(self) -> list[tuple[str, int]]:
        """Where the peer listens: at the address of the connection."""
        if self.connection.outbound:  # the port that we dialled is known to lead there
            return [self.connection.remote]
        return [(self.host, port) for port in _listen_ports(self.identify, self.host)] if self.identify else []


def _listen_ports(identify: Identify, host: str) -> list[int]:
    """Those at its own address; where it names none there (address translation, an unspecified address), any."""
    addresses = [address for address in identify.listen_addresses if address.port]
    there = [address for address in addresses if address.host == host] or addresses
    return list(dict.fromkeys(address.port for address in there if address.port))[:LISTEN_PORTS]


class Links:
    """All links of this node, and how new ones are made."""

    def __init__(self, host: Host, settings: KademliaSettings, *, dial_loopback: bool) -> None:
        """`dial_loopback`: whether other nodes may live on this machine's loopback addresses (in tests they do)."""
        self._host = host
        self._settings = settings
        self._dial_loopback = dial_loopback
        self._links: dict[Connection, Link] = {}
        self._dials = trio.CapacityLimiter(PARALLEL_DIALS)
        self.own_hosts: frozenset[str] = frozenset()  # this node's IP addresses, as peers are told them
        self._unreachable: dict[tuple[bytes, Multiaddr], float] = {}

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._links.values()))

    def __len__(self) -> int:
        return len(self._links)

    def get(self, peer_id: bytes) -> Link | None:
        """The link to use for a peer, if there is one; it may still be unidentified."""
        try:
            connection = self._host.connection(PeerId(peer_id))
        except InvalidPeerId:
            return None
        return self.of(connection) if connection is not None and not connection.closed else None

    def of(self, connection: Connection) -> Link:
        """The link of a connection."""
        link = self._links.get(connection)
        if link is None:
            link = self._links[connection] = Link(connection, self._settings)
        return link

    def forget(self, connection: Connection) -> None:
        """The connection has ended. Whoever waits for its identify learns that there will be none."""
        link = self._links.pop(connection, None)
        if link is not None:
            link.greeted.set()

    async def greet(
        self, link: Link, identified: Callable[[Link], None], then: Callable[[Link], Awaitable[None]]
    ) -> None:
        """Learn what the peer says of itself: then `identified`, before anybody acts on it, and `then`."""
        try:
            with trio.move_on_after(IDENTIFY_TIMEOUT):
                link.identify = await link.connection.identify()
        except Libp2pError:
            pass  # a connection that ends is told of by on_disconnected
        if link.identify is not None:
            identified(link)
        link.greeted.set()
        if link.identify is not None:
            await then(link)

    async def reach(self, contact: Contact, *, insist: bool = False) -> Link:
        """An identified link to this very peer, dialled where there is none. Raise PeerFailed.

        Addresses that failed lately are skipped, unless `insist`.
        """
        known = self.get(contact.id)
        if known is not None and known.identify is not None:
            return known
        try:
            with trio.fail_after(REACH_TIMEOUT):
                link = known or await self._dial(contact, insist=insist)
                await link.greeted.wait()
        except trio.TooSlowError as error:
            raise PeerFailed(f"not connected and identified within {REACH_TIMEOUT:g} s") from error
        if link.identify is None:
            raise PeerFailed("the peer does not identify itself")
        return link

    async def _dial(self, contact: Contact, *, insist: bool) -> Link:
        addresses = self._dialable(contact, insist=insist)
        problem = "no address to dial"
        end = trio.current_time() + DIAL_TIMEOUT
        for attempt, address in enumerate(addresses):
            share = (end - trio.current_time()) / (len(addresses) - attempt)
            try:
                async with self._dials:
                    connection = await self._connect(contact.id, address, share)
            except Libp2pError as error:
                problem = str(error)
            else:
                return self.of(connection)
        raise PeerFailed(problem)

    async def _connect(self, peer_id: bytes, address: Multiaddr, timeout: float) -> Connection:
        assert address.port is not None
        try:
            return await self._host.connect(address.host, address.port, PeerId(peer_id), max(timeout, 0.01))
        except CannotDial as error:
            raise NotAsked(str(error)) from error
        except DialError:  # a caller that leaves says nothing about the address
            self._remember_failure(peer_id, address)
            raise

    def _remember_failure(self, peer_id: bytes, address: Multiaddr) -> None:
        self._unreachable.pop((peer_id, address), None)
        self._unreachable[peer_id, address] = trio.current_time() + UNREACHABLE_TIME
        if len(self._unreachable) > REMEMBERED_FAILURES:
            del self._unreachable[next(iter(self._unreachable))]

    def believable_host(self, contact: Contact) -> str | None:
        """Where a peer is by the word of others: the first of its addresses that may be a peer's, not ours."""
        parsed = (self._parse(raw) for raw in contact.addresses)
        hosts = (address.host for address in parsed if address is not None)
        return next((host for host in hosts if host not in self.own_hosts), None)

    def _dialable(self, contact: Contact, *, insist: bool) -> list[Multiaddr]:
        now = trio.current_time()
        found = []
        for raw in contact.addresses:
            address = self._parse(raw)
            if address is not None and (insist or self._unreachable.get((contact.id, address), now) <= now):
                found.append(address)
        return found[:DIALED_ADDRESSES]

    def _parse(self, raw: bytes) -> Multiaddr | None:
        """An address that another peer may make us dial: an IP address where a peer can be, and a port."""
        try:
            address = Multiaddr.parse(raw)
        except InvalidMultiaddr:
            return None
        if address.protocol not in ("ip4", "ip6") or not address.port:
            return None
        ip = ipaddress.ip_address(address.host)
        if ip.is_unspecified or ip.is_multicast or ip.is_link_local or (ip.is_loopback and not self._dial_loopback):
            return None
        if not self._settings.is_peer_address(address.host):
            return None
        return Multiaddr(address.protocol, address.host, address.port)
