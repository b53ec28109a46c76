"""The host: listens, dials, keeps one table of connections, and hands inbound streams to their handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import trio

from peili.libp2p.certificate import ExtraExtension, VerifiedCertificate
from peili.libp2p.errors import DialError, Libp2pError, ProtocolNotSupported, SelfDial, StreamError
from peili.libp2p.identity import Identity
from peili.libp2p.multiaddr import Multiaddr
from peili.libp2p.peer_id import PeerId

__all__ = [
    "Connection",
    "DialError",
    "Host",
    "HostLimits",
    "Identify",
    "Libp2pError",
    "ProtocolNotSupported",
    "SelfDial",
    "Stream",
    "StreamError",
]

MAX_ZONE: Final = 64  # bytes


@dataclass(frozen=True, slots=True)
class Identify:
    """What a peer says of itself. `registry_port` is 0 and `zone` empty where it did not say (not Peili)."""

    peer_id: PeerId
    protocols: frozenset[str]
    agent_version: str
    protocol_version: str
    listen_addresses: tuple[Multiaddr, ...]
    registry_port: int = 0
    zone: str = ""


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What one host takes on; beyond it new work is refused and old work goes on."""

    connections: int = 192  # authenticated, in both directions
    connections_per_address: int = 32
    unauthenticated: int = 64  # inbound, in their handshake
    inbound_streams: int = 1024  # over all connections


class Stream:
    """One stream of a connection, for one protocol; it carries many frames in each direction.

    One task may read and another write at the same time. A task that is cancelled while it reads or writes
    resets this stream, and nothing else: whether half a frame left us cannot be known any more. Every method
    raises StreamError once the stream was reset or its connection ended.
    """

    protocol: str
    connection: Connection

    async def read_frame(self, limit: int) -> bytes | None:
        """The next frame (a varint length, then so many bytes); None where the peer ended its side between frames.

        A frame of more than `limit` bytes, or an end within a frame, is a StreamError, as is a peer that does not
        speak the protocol (ProtocolNotSupported: noticed at the first read, because it is proposed together
        with the first frame).
        """
        raise NotImplementedError

    async def write_frame(self, data: bytes) -> None:
        """Send one frame; waits while the peer's window is used up or much is waiting to be sent."""
        raise NotImplementedError

    async def close_write(self) -> None:
        """End our side; the peer may go on sending."""
        raise NotImplementedError

    async def reset(self) -> None:
        """Give up on both directions at once. Never fails."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End our side, and read no more: what still comes is dropped. Never fails."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream; reset it where the block ended with an exception."""
        raise NotImplementedError


class Connection:
    """An authenticated connection to a peer. `remote` is its IP address (no zone, no IPv4-mapped form) and port."""

    peer_id: PeerId
    remote: tuple[str, int]
    outbound: bool
    closed: bool

    async def identify(self) -> Identify:
        """What the peer says of itself: waits for its first word; afterwards at once, current with its pushes.

        Raise StreamError where the peer does not identify itself, or the connection ended.
        """
        raise NotImplementedError

    async def open_stream(self, protocol: str) -> Stream:
        """A new stream. The protocol is proposed together with the first frame, so this waits for nothing.

        Raise StreamError where the connection is closed or has too many streams.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the connection, within a bounded time."""
        raise NotImplementedError

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, for any reason."""
        raise NotImplementedError


ConnectionCallback = Callable[[Connection], None]
StreamHandler = Callable[[Stream], Awaitable[None]]
VerifyPeer = Callable[[VerifiedCertificate], bool]


@dataclass
class Host:
    """This node on the wire.

    Set the handlers, then run it in a nursery. `on_connected` and `on_disconnected` are called with each
    authenticated connection, in both directions; they must not block.
    """

    identity: Identity
    agent_version: str = field(kw_only=True)
    registry_port: int = field(default=0, kw_only=True)
    zone: str = field(default="", kw_only=True)
    limits: HostLimits = field(default=HostLimits(), kw_only=True)
    verify_peer: VerifyPeer = field(default=lambda certificate: True, kw_only=True)
    extra_extensions: Sequence[ExtraExtension] = field(default=(), kw_only=True)
    on_connected: ConnectionCallback | None = field(default=None, init=False)
    on_disconnected: ConnectionCallback | None = field(default=None, init=False)

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self.identity.peer_id

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Speak a protocol: the handler gets each inbound stream; when it returns the stream is closed, when it
        raises the stream is reset."""
        raise NotImplementedError

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        listen_addresses: Sequence[Multiaddr] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take and keep connections until cancelled, then close all. `listen_addresses` go into our identify."""
        raise NotImplementedError

    async def connect(self, host: str, port: int, expected: PeerId | None, timeout: float) -> Connection:
        """A connection to this peer: one that exists, or a new one within `timeout` seconds.

        Simultaneous dials to one peer share one. Without `expected` anybody's certificate is taken, and its id
        is the connection's. Raise DialError; SelfDial where the address is our own.
        """
        raise NotImplementedError

    def connection(self, peer_id: PeerId) -> Connection | None:
        """The connection to use for this peer, if there is any."""
        raise NotImplementedError

    def connections(self) -> tuple[Connection, ...]:
        """All authenticated connections."""
        raise NotImplementedError
