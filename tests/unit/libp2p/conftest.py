"""Hosts on loopback, and a raw peer that finishes the handshake and then does what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from peili.libp2p.host import Connection, Host, Stream
from peili.libp2p.identity import Identity
from peili.libp2p.tls import TlsContexts
from peili.libp2p.upgrade import Secured, upgrade
from peili.libp2p.yamux import Yamux

ECHO = "/test/echo/1.0.0"
LIMIT = 4 * 1024 * 1024


async def echo(stream: Stream) -> None:
    while (frame := await stream.read_frame(LIMIT)) is not None:
        await stream.write_frame(frame)


@dataclass
class Node:
    """A running host, the port that it listens on, and how to stop it."""

    host: Host
    port: int
    stop: trio.CancelScope


@dataclass
class RawPeer:
    """An authenticated connection whose bytes the test writes itself."""

    transport: trio.SocketStream
    secured: Secured
    yamux: Yamux

    async def send(self, data: bytes = b"") -> None:
        self.secured.tls.encrypt(self.yamux.take_output() + data)
        await self.transport.send_all(self.secured.tls.take_output())

    async def receive(self) -> bytes:
        """The next plaintext; empty at the end."""
        while data := await self.transport.receive_some(65536):
            plaintext = self.secured.tls.decrypt(bytes(data))
            if plaintext:
                return plaintext
        return b""


class Net:
    """Makes hosts and raw peers that live as long as the test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.transports: list[trio.SocketStream] = []

    async def host(
        self, *, echoes: bool = True, prepare: Callable[[Host], None] | None = None, **options: Any
    ) -> Node:
        host = Host(options.pop("identity", None) or Identity.generate(), agent_version="peili/test", **options)
        if echoes:
            host.set_handler(ECHO, echo)
        if prepare is not None:
            prepare(host)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await host.run([listener], task_status=task_status)

        await self.nursery.start(run)
        return Node(host, listener.socket.getsockname()[1], scope)

    async def connect(self, source: Node, target: Node) -> Connection:
        return await source.host.connect("127.0.0.1", target.port, target.host.peer_id, 5)

    async def tcp(self, target: Node) -> trio.SocketStream:
        transport = await trio.open_tcp_stream("127.0.0.1", target.port)
        self.transports.append(transport)
        return transport

    async def raw_peer(self, target: Node) -> RawPeer:
        """Dials like a peer, and leaves everything after the handshake to the test."""
        transport = await self.tcp(target)
        secured = await upgrade(transport, TlsContexts(Identity.generate().certificate()), outbound=True)
        return RawPeer(transport, secured, Yamux(client=True))

    async def aclose(self) -> None:
        for transport in self.transports:
            await trio.aclose_forcefully(transport)


@pytest.fixture
async def net(nursery: trio.Nursery) -> Any:
    made = Net(nursery)
    yield made
    await made.aclose()


@pytest.fixture
def make_net() -> type[Net]:
    """For tests that have nurseries of their own."""
    return Net
