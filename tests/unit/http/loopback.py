"""Real sockets on loopback for the tests: a server that runs, clients that say what they like, pairs of ends."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from peili.http.server import (
    Exchange,
    Handler,
    Headers,
    Limits,
    OnError,
    Server,
    SocketAddress,
    listen,
    listening_address,
)

LOOPBACK = SocketAddress("127.0.0.1", 0)
# Closed after each test by conftest.py.
opened: list[trio.socket.SocketType] = []
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Served:
    server: Server
    address: SocketAddress
    scope: trio.CancelScope


@asynccontextmanager
async def serving(
    handler: Handler, limits: Limits | None = None, on_error: OnError | None = None
) -> AsyncIterator[Served]:
    """A running server; it is cancelled at the end."""
    errors: list[Exception] = []
    server = Server(handler, limits or Limits(), on_error=on_error or (lambda _, error: errors.append(error)))
    listeners = await listen(LOOPBACK)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners)
        yield Served(server, listening_address(listeners[0]), nursery.cancel_scope)
        nursery.cancel_scope.cancel()
    assert not errors, errors


async def connect(address: SocketAddress) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.append(sock)
    await sock.connect((address.host, address.port))
    return sock


async def tcp_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Two connected ends."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        one = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        await one.connect(listener.getsockname())
        other, _ = await listener.accept()
    opened.extend((one, other))
    return one, other


def close_opened() -> None:
    while opened:
        if (fileno := opened.pop().detach()) >= 0:
            socket.close(fileno)


async def send(sock: trio.socket.SocketType, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


async def read_exactly(sock: trio.socket.SocketType, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await sock.recv(min(1 << 16, count - len(data)))
        assert more, f"ended after {len(data)} of {count} bytes"
        data += more
    return bytes(data)


async def read_to_end(sock: trio.socket.SocketType) -> bytes:
    """Everything up to a FIN; a RST raises ConnectionResetError."""
    data = bytearray()
    while more := await sock.recv(1 << 16):
        data += more
    return bytes(data)


async def read_head(sock: trio.socket.SocketType) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = await sock.recv(1)
        assert more, data
        data += more
    return data


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def reset_on_close(sock: trio.socket.SocketType) -> None:
    """Closing this socket sends RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4))


def random_bytes(count: int) -> bytes:
    return os.urandom(count)


async def hello(exchange: Exchange) -> None:
    await exchange.respond(200, Headers.of({"Content-Type": "text/plain"}), b"hello")


class Reader:
    """Reads a socket to its end, or until it has `stop_at` bytes, and hashes them."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._hash = hashlib.sha256()
        self.count = 0
        self.stop_at = 1 << 60

    async def run(self) -> None:
        while self.count < self.stop_at and (data := await self._socket.recv(1 << 18)):
            self._hash.update(data)
            self.count += len(data)

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def has_read(self, data: bytes) -> bool:
        return self.count == len(data) and self.digest == hashlib.sha256(data).digest()
