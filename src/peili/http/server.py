"""The HTTP/1.1 server: listeners, caps, drain. What a request means is the handler's business."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio

from peili.http.connection import Connection, Handler, OnError, Tally, close, linger, plain_answer
from peili.http.exchange import Exchange
from peili.http.limits import Limits, ServerStatistics
from peili.http.message import Headers, Request, SocketAddress
from peili.http.pump import Pump
from peili.http.sink import UNSENT_LOW_WATER, Sink, set_unsent_low_water
from peili.http.stages import StagePool

__all__ = [
    "Exchange",
    "Handler",
    "Headers",
    "Limits",
    "OnError",
    "Request",
    "Server",
    "ServerStatistics",
    "Sink",
    "SocketAddress",
    "listen",
    "listening_address",
]

BACKLOG: Final = 1024  # connections that the kernel keeps until they are accepted
ACCEPT_PAUSE: Final = 0.1  # seconds before accept is tried again after it failed
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
REFUSALS: Final = 64  # clients over a cap that are told so at the same time; further ones are just closed
REFUSAL_LIMITS: Final = Limits(linger_timeout=1.0, linger_bytes=65536)
DEFAULT_LIMITS: Final = Limits()

_log = logging.getLogger(__name__)


class Server:
    """Serves HTTP/1.1 on listeners. One `run` per Server."""

    def __init__(
        self, handler: Handler, limits: Limits = DEFAULT_LIMITS, *, on_error: OnError | None = None
    ) -> None:
        """`on_error` hears of every exception of the handler but SinkClosed; without it they are logged."""
        self._handler = handler
        self._limits = limits
        self._on_error = on_error or _log_error
        self._pool = StagePool(pump=Pump())
        self._tally = Tally()
        self._listeners: list[trio.SocketListener] = []
        self._connections: set[Connection] = set()
        self._clients: Counter[str] = Counter()
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._refusing = 0
        self._spare: int | None = None  # a descriptor for telling clients that there is none for them
        self._accepted = self._refused = self._accept_errors = 0

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained or cancelled; the listeners are closed then. Says started once accepting."""
        if self._scope is not None or self._ended.is_set():
            raise RuntimeError("a Server runs once")
        self._listeners = list(listeners)
        self._take_spare()
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                task_status.started()
        finally:
            self._close_listeners()
            self._pool.close()
            self._give_spare()
            self._ended.set()

    async def drain(self, grace: float) -> None:
        """End run(): accept nobody, close idle connections, let answers in flight finish for `grace` seconds."""
        if self._scope is None:
            return
        self._tally.draining = True
        self._close_listeners()
        for connection in tuple(self._connections):
            connection.end_if_idle()
        with trio.move_on_after(grace):
            await self._ended.wait()
            return
        self._scope.cancel()
        await self._ended.wait()

    def statistics(self) -> ServerStatistics:
        """A frozen snapshot."""
        return ServerStatistics(
            connections=len(self._connections),
            clients=len(self._clients),
            in_flight=self._tally.in_flight,
            requests=self._tally.requests,
            accepted=self._accepted,
            refused=self._refused,
            bad_requests=self._tally.bad_requests,
            accept_errors=self._accept_errors,
            relayed=self._pool.relayed,
        )

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.socket.close()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        short = False  # of descriptors, also after a pause
        while True:
            try:
                sock, name = await listener.socket.accept()
                short = False
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if listener.socket.fileno() < 0:
                    return
                if error.errno == errno.ECONNABORTED:  # that is the one client's doing (accept(2))
                    continue
                self._accept_errors += 1
                if not (short and self._turn_away(listener)):
                    short = error.errno in _OUT_OF_DESCRIPTORS
                    await trio.sleep(ACCEPT_PAUSE)
                continue
            self._admit(sock, SocketAddress.of(name), nursery)

    def _turn_away(self, listener: trio.SocketListener) -> bool:
        """Out of descriptors: who is not accepted would wait for ever, and has other hosts that it could ask."""
        if self._spare is None:
            self._take_spare()
            return False
        self._give_spare()
        with contextlib.suppress(OSError), socket.socket(fileno=listener.socket.fileno()) as plain:
            try:
                client, _ = plain.accept()  # does not block: the descriptor does not
                with client:
                    client.setblocking(False)
                    client.send(plain_answer(503, "out of descriptors"))
                self._refused += 1
            finally:
                plain.detach()
        self._take_spare()
        return True

    def _take_spare(self) -> None:
        with contextlib.suppress(OSError):  # after the next pause, then
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _admit(self, sock: trio.socket.SocketType, client: SocketAddress, nursery: trio.Nursery) -> None:
        with contextlib.suppress(OSError):  # reset between accept and here; the first read will tell
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        set_unsent_low_water(sock, UNSENT_LOW_WATER)
        full = len(self._connections) >= self._limits.connections
        if not full and self._clients[client.host] < self._limits.connections_per_client:
            self._accepted += 1
            connection = Connection(
                sock, client, self._handler, self._report, self._limits, self._pool, self._tally
            )
            self._connections.add(connection)
            self._clients[client.host] += 1
            nursery.start_soon(self._serve, connection, client)
            return
        self._refused += 1
        if self._refusing < REFUSALS:
            self._refusing += 1
            nursery.start_soon(self._refuse, sock)
        else:
            sock.close()

    async def _serve(self, connection: Connection, client: SocketAddress) -> None:
        try:
            await connection.serve()
        except Exception:  # noqa: BLE001 - a mistake of ours in one connection must not end the others
            _log.exception("a connection from %s failed", client)
        finally:
            self._connections.discard(connection)
            self._clients[client.host] -= 1
            if not self._clients[client.host]:
                del self._clients[client.host]

    async def _refuse(self, sock: trio.socket.SocketType) -> None:
        try:
            with contextlib.suppress(OSError):  # gone already
                await sock.send(plain_answer(503, "too many connections"))
            await linger(sock, REFUSAL_LIMITS)
        finally:
            self._refusing -= 1
            close(sock, REFUSAL_LIMITS.linger_bytes)

    def _report(self, exchange: Exchange, error: Exception) -> None:
        try:
            self._on_error(exchange, error)
        except Exception:  # noqa: BLE001 - a broken hook must not end the server for one broken request
            _log.exception("the error hook failed")


def _log_error(exchange: Exchange, error: Exception) -> None:
    _log.error("%s %s failed", exchange.request.method, exchange.request.target, exc_info=error)


async def listen(address: SocketAddress) -> list[trio.SocketListener]:
    """Listen on an address; "::" takes IPv4 as well. Raise OSError with the address in its text."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(address, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
        await sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _cannot_listen(address, error) from error
        raise
    return [trio.SocketListener(sock)]


def listening_address(listener: trio.SocketListener) -> SocketAddress:
    """Where a listener listens; the port is the real one where 0 was asked for."""
    return SocketAddress.of(listener.socket.getsockname())


def _cannot_listen(address: SocketAddress, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot listen on {address}: {error.strerror}")
