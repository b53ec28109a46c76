"""One connection of the server: requests read, handed on and answered, one after the other, and a clean end.

The end is always a FIN, never a RST: containerd resumes a body that ends early, and gives a pull up whose
connection is reset. Linux sends RST when a socket is closed that holds unread bytes (RFC 1122, 4.2.2.13), so
what the client still sends is read for a while first.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11
import trio

from peili.http.errors import SinkClosed
from peili.http.exchange import Exchange, reason
from peili.http.limits import Limits
from peili.http.message import Headers, Request, SocketAddress
from peili.http.stages import StagePool
from peili.http.transfer import send_all

Handler = Callable[[Exchange], Awaitable[None]]
OnError = Callable[[Exchange, Exception], None]

_READ_SIZE = 8192


@dataclass(slots=True)
class Tally:
    """What the connections of a server count together, and whether they are to end."""

    draining: bool = False
    in_flight: int = 0
    requests: int = 0
    bad_requests: int = 0


class _Refusal(Exception):
    """This request is answered with an error of ours, and the connection ends."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def plain_answer(status: int, text: str) -> bytes:
    """A whole small answer after which the connection ends, for when h11 cannot or need not be asked."""
    body = f"{text}\n".encode("ascii", "replace")
    head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, reason(status), len(body)) + body


class Connection:
    """Owns a client's socket from accept to close."""

    def __init__(
        self,
        sock: trio.socket.SocketType,
        client: SocketAddress,
        handler: Handler,
        on_error: OnError,
        limits: Limits,
        pool: StagePool,
        tally: Tally,
    ) -> None:
        self._socket = sock
        self._client = client
        self._handler = handler
        self._on_error = on_error
        self._limits = limits
        self._pool = pool
        self._tally = tally
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._idle: trio.CancelScope | None = None
        self._ended_idle = False

    async def serve(self) -> None:
        """Answer requests until the client, an error or a drain ends it. Raises nothing that a client can cause."""
        try:
            with contextlib.suppress(SinkClosed):
                while not self._tally.draining and await self._serve_one():
                    pass
            if not self._ended_idle:
                await linger(self._socket, self._limits)
        finally:
            close(self._socket, self._limits.linger_bytes)

    def end_if_idle(self) -> None:
        """End the connection if no request has begun on it."""
        if self._idle is not None:
            # Nothing was said that a RST could take back: no need to wait for the client's FIN.
            self._ended_idle = True
            self._idle.cancel()

    async def _serve_one(self) -> bool:
        """Read and answer one request; return whether another one may follow."""
        try:
            request = await self._read_request()
        except _Refusal as refusal:
            self._tally.bad_requests += 1
            await self._send_plain(refusal.status, refusal.text)
            return False
        if request is None:
            return False
        exchange = Exchange(
            request,
            self._h11,
            self._socket,
            self._pool,
            write_timeout=self._limits.write_timeout,
            closing=self._closing,
        )
        self._tally.requests += 1
        self._tally.in_flight += 1
        try:
            await self._answer(exchange)
        finally:
            self._tally.in_flight -= 1
        if not exchange.finish():
            return False
        self._h11.start_next_cycle()
        return True

    def _closing(self) -> bool:
        # A body that was not read to its end (the client waits for 100 (Continue), or it is too long) never is.
        return self._tally.draining or self._h11.their_state is h11.SEND_BODY

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
            if not exchange.started:
                raise RuntimeError(f"the handler gave no answer to {exchange.request.method}")
        except SinkClosed:
            pass  # clients go away; that is no error
        except Exception as error:  # noqa: BLE001 - whatever breaks in a handler ends its answer, not the server
            self._report(exchange, error)
            if not exchange.started:
                exchange.status = 500
                await self._send_plain(500, "something is wrong in this server")

    def _report(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, ExceptionGroup) and error.split(SinkClosed)[1] is None:
            return
        self._on_error(exchange, error)

    async def _read_request(self) -> Request | None:
        """The next request, a small body read and thrown away; None when the client is done. Raise _Refusal."""
        try:
            if not await self._wait_for_bytes():
                return None
            with trio.move_on_after(self._limits.head_timeout):
                event = await self._next_event()
                if not isinstance(event, h11.Request):
                    return None
                if event.method == b"CONNECT":  # this server is no proxy; a 2xx to it would end HTTP here
                    raise _Refusal(501, "CONNECT is not understood here")
                await self._discard_body(event)
                return self._request(event)
        except h11.RemoteProtocolError as error:
            raise _Refusal(error.error_status_hint, f"not a request: {error}"[:200]) from error
        return None  # too slow: a slow head gets a FIN and nothing else

    def _request(self, event: h11.Request) -> Request:
        return Request(
            method=event.method.decode("ascii"),
            target=event.target.decode("ascii"),
            headers=Headers.of_raw(event.headers.raw_items()),
            client=self._client,
        )

    async def _wait_for_bytes(self) -> bool:
        """Wait for the first byte of a request; return whether it came before the end, the timeout, a drain."""
        if self._h11.trailing_data[0]:
            return True
        self._idle = trio.move_on_after(self._limits.idle_timeout)
        try:
            with self._idle:
                return await self._receive()
        finally:
            self._idle = None
        return False

    async def _receive(self) -> bool:
        try:
            data = await self._socket.recv(_READ_SIZE)
        except OSError:  # reset: clients do that
            data = b""
        self._h11.receive_data(data)
        return bool(data)

    async def _next_event(self) -> h11.Event | None:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            await self._receive()
        return event if isinstance(event, h11.Event) else None

    async def _discard_body(self, request: h11.Request) -> None:
        """Read the body to its end, unless that is too far: then the answer goes out before it, and is the last.

        What the answer is stays with the handler: a registry's push gets 405 however large its layer is.
        """
        if self._h11.they_are_waiting_for_100_continue:
            return
        limit = self._limits.body_bytes
        if any(name == b"content-length" and int(value) > limit for name, value in request.headers):
            return
        received = 0
        while isinstance(event := await self._next_event(), h11.Data):
            received += len(event.data)
            if received > limit:
                return

    async def _send_plain(self, status: int, text: str) -> None:
        data = plain_answer(status, text)
        await send_all(self._socket.fileno(), data, lambda _: None, self._limits.head_timeout)


async def linger(sock: trio.socket.SocketType, limits: Limits) -> None:
    """Send FIN and read what the client still sends, until its FIN, for a bounded time and amount."""
    try:
        sock.shutdown(socket.SHUT_WR)
        with trio.move_on_after(limits.linger_timeout):
            left = limits.linger_bytes
            while left > 0 and (data := await sock.recv(min(left, _READ_SIZE))):
                left -= len(data)
    except OSError:  # the client is gone
        return


def close(sock: trio.socket.SocketType, limit: int) -> None:
    """Close without a RST as far as that can be done without waiting; for the end of a cancelled task too."""
    with contextlib.suppress(OSError):  # the client is gone, or has sent no more: nothing to avoid
        sock.shutdown(socket.SHUT_WR)
        while limit > 0 and (data := os.read(sock.fileno(), _READ_SIZE)):
            limit -= len(data)
    sock.close()
