"""The host: listens, dials, keeps one table of connections, and hands inbound streams to their handlers."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from peili.libp2p.certificate import ExtraExtension, ExtraExtensions, VerifiedCertificate, no_extensions
from peili.libp2p.connection import Connection
from peili.libp2p.dial import Dials
from peili.libp2p.errors import (
    BrokenConnection,
    CannotDial,
    DialError,
    Libp2pError,
    ProtocolNotSupported,
    SelfDial,
    StreamError,
)
from peili.libp2p.identify import (
    IDENTIFY,
    IDENTIFY_PUSH,
    MAX_TEXT,
    MAX_ZONE,
    PROTOCOL_VERSION,
    Identify,
    encode_identify,
)  # fmt: skip
from peili.libp2p.identity import Identity
from peili.libp2p.inbound import StreamHandler
from peili.libp2p.keepalive import CHECK_INTERVAL
from peili.libp2p.limits import Admission, HostLimits
from peili.libp2p.multiaddr import Multiaddr
from peili.libp2p.outbound import open_outbound
from peili.libp2p.peer_id import PeerId
from peili.libp2p.ping import PING, answer_pings
from peili.libp2p.remote import remote_of
from peili.libp2p.roster import Fate, Roster
from peili.libp2p.stream import Stream
from peili.libp2p.tls import TlsContexts
from peili.libp2p.upgrade import HANDSHAKE_TIMEOUT, Secured, upgrade

__all__ = [
    "CannotDial",
    "Connection",
    "DialError",
    "ExtraExtension",
    "Host",
    "HostLimits",
    "Identify",
    "Libp2pError",
    "ProtocolNotSupported",
    "SelfDial",
    "Stream",
    "StreamError",
    "VerifiedCertificate",
]

ConnectionCallback = Callable[[Connection], None]
RefusedCallback = Callable[[PeerId, str], None]
VerifyPeer = Callable[[VerifiedCertificate], bool]
ACCEPT_PAUSE: Final = 0.1  # seconds to wait where there are no descriptors for a new connection
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_log = logging.getLogger(__name__)


def _lacks_means(error: BaseException | None) -> bool:
    """Whether this node, not the other side, is why no attempt succeeded; trio tells the attempts as causes."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_lacks_means, error.exceptions))
    if isinstance(error, OSError):
        return error.errno in _NO_DESCRIPTORS or _lacks_means(error.__cause__)
    return False


def _everybody(certificate: VerifiedCertificate) -> bool:
    return True


class Host:
    """This node on the wire.

    Set the handlers, then run it in a nursery. `on_connected` and `on_disconnected` are called with each
    authenticated connection, in both directions; they must not block. `verify_peer` says who may take part, by a
    peer's good certificate: nobody else's stream is opened or taken, and `on_refused` hears of it, with the IP
    address. `extra_extensions` go into our own certificate. Dials leave from the one of
    `source_addresses` (local IP addresses) that has the peer's family; without one the kernel chooses.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        agent_version: str,
        registry_port: int = 0,
        zone: str = "",
        limits: HostLimits = HostLimits(),  # noqa: B008 - frozen
        verify_peer: VerifyPeer = _everybody,
        extra_extensions: ExtraExtensions = no_extensions,
        source_addresses: Sequence[str] = (),
    ) -> None:
        if len(zone.encode()) > MAX_ZONE or len(agent_version.encode()) > MAX_TEXT:
            raise ValueError(f"a zone has at most {MAX_ZONE} bytes, an agent version {MAX_TEXT}")
        self.identity: Final = identity
        self.peer_id: Final = identity.peer_id
        self.limits: Final = limits
        self.on_connected: ConnectionCallback | None = None
        self.on_disconnected: ConnectionCallback | None = None
        self.on_refused: RefusedCallback | None = None
        self._verify_peer = verify_peer
        self._source_addresses = tuple(source_addresses)
        self._extra_extensions = extra_extensions
        self._contexts = TlsContexts(identity.certificate(extra_extensions))
        self._own = Identify(
            self.peer_id, frozenset(), agent_version, PROTOCOL_VERSION, (), registry_port=registry_port, zone=zone
        )
        self._handlers: dict[str, StreamHandler] = {IDENTIFY: self._answer_identify, PING: answer_pings}
        self._roster = Roster(self.peer_id, limits.connections)
        self._admission = Admission(limits)
        self._dials = Dials()
        self._nursery: trio.Nursery | None = None
        self._inbound_streams = self._unread = 0

    # What users call

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Speak a protocol: the handler gets each inbound stream; the stream is closed when it returns, reset when
        it raises (a Libp2pError is what peers cause, anything else is logged as a mistake)."""
        self._handlers[protocol] = handler

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        listen_addresses: Sequence[Multiaddr] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take and keep connections until cancelled, then close all, the listeners too.

        `listen_addresses` go into our identify.
        """
        self._own = replace(self._own, listen_addresses=tuple(listen_addresses))
        try:
            async with trio.open_nursery() as self._nursery:
                for listener in listeners:
                    self._nursery.start_soon(self._accept, listener)
                self._nursery.start_soon(self._look_after_all)
                task_status.started()
        finally:
            self._nursery = None

    async def connect(self, host: str, port: int, expected: PeerId | None, timeout: float) -> Connection:
        """A connection to this peer: one that exists, or a new one within `timeout` seconds.

        Simultaneous dials to one peer share one. Without `expected` anybody's certificate is taken, and its id
        is the connection's. Raise DialError; SelfDial where the address is our own.
        """
        await trio.lowlevel.checkpoint()
        if expected == self.peer_id:
            raise SelfDial("this is our own id", self.peer_id)
        existing = self.connection(expected) if expected is not None else None
        if existing is not None:
            return existing
        if self._nursery is None:
            raise DialError("the host does not run")
        with trio.move_on_after(timeout):
            return await self._dials.share(
                self._nursery, expected or (host, port), (host, port), lambda: self._dial(host, port, expected)
            )
        raise DialError(f"no connection to {host} port {port} within {timeout:g} s")

    def connection(self, peer_id: PeerId) -> Connection | None:
        """The connection to use for this peer, if there is any."""
        return self._roster.preferred(peer_id)

    def connections(self) -> tuple[Connection, ...]:
        """All authenticated connections."""
        return self._roster.all()

    def renew(self) -> None:
        """What `extra_extensions` or `verify_peer` say has changed: make a new certificate for connections to come,
        and end those whose peers may take part no longer."""
        self._contexts = TlsContexts(self.identity.certificate(self._extra_extensions))
        for connection in self.connections():
            if not self._verify_peer(connection.certificate):
                connection.drop("the peer may not take part any more")

    # What connections call

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """Who takes inbound streams, by protocol."""
        return self._handlers

    def take_inbound_stream(self) -> bool:
        """Whether one more inbound stream may be open."""
        if self._inbound_streams >= self.limits.inbound_streams:
            return False
        self._inbound_streams += 1
        return True

    def drop_inbound_stream(self) -> None:
        """An inbound stream is done."""
        self._inbound_streams -= 1

    def unread(self, change: int) -> None:
        """So many more (or fewer) bytes wait to be read; of too many, the worst connection pays."""
        self._unread += change
        if self._unread > self.limits.unread_bytes:
            max(self.connections(), key=lambda one: one.unread_bytes).drop("too many bytes that nobody reads")

    # Inbound

    async def _accept(self, listener: trio.SocketListener) -> None:
        assert self._nursery is not None
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        raise
                    _log.warning("cannot accept a connection: %s", error.strerror)
                    await trio.sleep(ACCEPT_PAUSE)
                    continue
                remote = remote_of(stream)
                if remote is not None and self._admission.arrive(remote[0]):
                    self._nursery.start_soon(self._welcome, stream, remote)
                else:
                    await trio.aclose_forcefully(stream)

    async def _welcome(self, stream: trio.SocketStream, remote: tuple[str, int]) -> None:
        try:
            try:
                connection = await self._establish(stream, remote, outbound=False, expected=None)
            finally:
                self._admission.finish_handshake(remote[0])
            await self._keep(connection)
        except DialError as error:
            _log.debug("refused a connection from %s: %s", remote[0], error)
        finally:
            self._admission.leave(remote[0])

    # Outbound

    async def _dial(self, host: str, port: int, expected: PeerId | None) -> Connection:
        assert self._nursery is not None
        try:
            stream = await open_outbound(host, port, self._source_addresses)
        except (OSError, ValueError) as error:
            # ValueError: a name that IDNA cannot encode, or a port that is none.
            if _lacks_means(error):
                text = f"cannot dial {host} port {port}: this node has no descriptor or no memory left for it"
                raise CannotDial(text) from error
            raise DialError(f"cannot reach {host} port {port}: {error}") from error
        remote = remote_of(stream) or (host, port)
        connection = await self._establish(stream, remote, outbound=True, expected=expected)
        self._nursery.start_soon(self._keep, connection)
        return connection

    # Both

    async def _establish(
        self, stream: trio.SocketStream, remote: tuple[str, int], *, outbound: bool, expected: PeerId | None
    ) -> Connection:
        """Authenticate the peer and enter the connection into the table. Raise DialError."""
        secured = None
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                secured = await upgrade(stream, self._contexts, outbound=outbound)
            self._check_peer(secured, expected, remote)
            connection = Connection(stream, secured, self, remote=remote, outbound=outbound)
            self._register(connection)
        except BaseException as error:
            if secured is not None:
                secured.tls.close()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            if isinstance(error, BrokenConnection):
                raise DialError(f"no connection with {remote[0]} port {remote[1]}: {error}") from error
            if isinstance(error, trio.TooSlowError):
                raise DialError(f"{remote[0]} port {remote[1]} does not finish the handshake") from error
            raise
        self._tell(self.on_connected, connection)
        return connection

    def _check_peer(self, secured: Secured, expected: PeerId | None, remote: tuple[str, int]) -> None:
        actual = secured.certificate.peer_id
        if actual == self.peer_id:
            raise SelfDial("the address leads to ourselves", actual)
        if expected is not None and actual != expected:
            raise DialError(f"somebody else is there: {actual} instead of {expected}", actual)
        if not self._verify_peer(secured.certificate):
            if self.on_refused is not None:
                self.on_refused(actual, remote[0])
            raise DialError(f"{actual} may not take part here", actual)

    def _register(self, connection: Connection) -> None:
        """Enter a connection into the table, and close what has to make room for it. Raise DialError."""
        now = trio.current_time()
        leaving = self._roster.make_room(connection, now)
        for sibling in self._roster.of(connection.peer_id):
            sibling.look_after(now, suspect=True)
        self._roster.add(connection)
        for one in leaving:
            self._retire(one, "it made room for another connection")

    def _retire(self, connection: Connection, reason: str) -> None:
        """Take a connection out of the table, and close it in the background."""
        assert self._nursery is not None
        connection.end(reason)
        self._roster.remove(connection)
        self._nursery.start_soon(connection.aclose)

    async def _keep(self, connection: Connection) -> None:
        """Drive a connection until it ends."""
        try:
            await connection.run()
        finally:
            self._roster.remove(connection)
            _log.debug("the connection with %s ended: %s", connection.peer_id, connection.reason)
            self._tell(self.on_disconnected, connection)

    def _tell(self, callback: ConnectionCallback | None, connection: Connection) -> None:
        try:
            if callback is not None:
                callback(connection)
        except Exception:  # noqa: BLE001 - a mistake of a callback must not stop the host
            _log.exception("a callback failed for %s", connection.peer_id)

    async def _look_after_all(self) -> None:
        while True:
            await trio.sleep(CHECK_INTERVAL)
            now = trio.current_time()
            for connection in self.connections():
                connection.look_after(now)
                match self._roster.fate(connection, now):
                    case Fate.DRAIN:
                        connection.drain()
                    case Fate.RETIRE:
                        self._retire(connection, "nobody needs it any more")
                    case Fate.KEEP:
                        pass

    async def _answer_identify(self, stream: Stream) -> None:
        own = replace(self._own, protocols=frozenset({*self._handlers, IDENTIFY_PUSH}))
        host, port = stream.connection.remote
        await stream.write_frame(encode_identify(own, Multiaddr.of(host, port)))
