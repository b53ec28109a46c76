"""The HTTP/1.1 client: one request, the head of its answer, and a body that is read or relayed."""

from __future__ import annotations

import contextlib
import socket
import struct
from types import TracebackType
from typing import Final, Self

import h11
import trio

from peili.http.dial import dial, is_quiet
from peili.http.errors import BadResponse, BodyTooLarge, ResponseTimeout, SourceStalled
from peili.http.limits import ClientLimits, ClientStatistics
from peili.http.message import Headers, SocketAddress
from peili.http.pool import IdlePool
from peili.http.source import Source

__all__ = ["Client", "ClientLimits", "ClientStatistics", "Headers", "Response", "SocketAddress", "Source"]

INFORMATIONAL_ANSWERS: Final = 8  # 1xx heads before the real one
SMALL_REST: Final = 16384  # so much of an unread body is thrown away to keep its connection
DEFAULT_LIMITS: Final = ClientLimits()
_READ_SIZE: Final = 16384


class _Dead(Exception):
    """The connection ended before any byte of an answer."""


class Response:
    """The head of an answer, and its body as `source`. Close it, in any case (`async with` does)."""

    __slots__ = (
        "_client",
        "_closed",
        "_keep_alive",
        "_socket",
        "address",
        "content_length",
        "headers",
        "source",
        "status",
    )

    def __init__(
        self,
        client: Client,
        sock: trio.socket.SocketType,
        address: SocketAddress,
        status: int,
        headers: Headers,
        content_length: int | None,
        source: Source,
        *,
        keep_alive: bool,
    ) -> None:
        self._client = client
        self._socket = sock
        self._keep_alive = keep_alive
        self._closed = False
        self.address = address
        self.status = status
        self.headers = headers
        self.content_length = content_length  # as the peer says, for HEAD too; None where it does not
        self.source = source

    async def read(self, limit: int, *, timeout: float) -> bytes:
        """The rest of the body, in memory.

        Raise BodyTooLarge (more than `limit` bytes), SourceEnded, SourceStalled (not there in `timeout` seconds).
        """
        if self.source.remaining > limit:
            raise BodyTooLarge(f"a body of {self.source.remaining} bytes from {self.address}; at most {limit}")
        body = bytearray()
        with trio.move_on_after(timeout):
            while self.source.remaining:
                body += await self.source.receive()
            return bytes(body)
        raise SourceStalled(f"{self.address} did not send its body in {timeout:g} s", len(body))

    async def aclose(self) -> None:
        """Give the connection back where another request can follow on it, else close it. Never waits."""
        if self._closed:
            return
        self._closed = True
        self.source.take_what_is_there(SMALL_REST)
        reusable = self._keep_alive and not self.source.remaining and not self.source.failed
        if self.source.remaining:
            _reset_on_close(self._socket)
        self._client._give_back(self.address, self._socket, reusable=reusable)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _reset_on_close(sock: trio.socket.SocketType) -> None:
    """Have the peer know at once that nobody takes the rest of its body.

    A FIN says nothing of that, and where our receive window was full, the peer would find out by its next probe of
    it, up to two minutes later, and keep a place for an upload until then.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Client:
    """Asks, over connections that are kept alive and pooled by address."""

    def __init__(self, *, limits: ClientLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._pool: IdlePool[trio.socket.SocketType] = IdlePool(limits)
        self._closed = False
        self._connected = self._reused = self._retried = 0

    async def open(
        self,
        address: SocketAddress,
        method: str,
        target: str,
        headers: Headers,
        *,
        connect_timeout: float,
        head_timeout: float,
    ) -> Response:
        """Send a request without a body, and wait for the head of its answer. Host is added where it lacks.

        Raise ConnectFailed, NoMeans, ResponseTimeout, BadResponse; ValueError where method or target cannot be
        sent.
        """
        if "host" not in headers:
            headers = Headers([("Host", str(address)), *headers])
        request = _request(method, target, headers)
        idle = self._take(address)
        if idle is not None:
            try:
                return await self._ask(idle, address, request, head_timeout)
            except _Dead:  # the peer closed it in the meantime: that says nothing about a fresh one
                self._retried += 1
        fresh = await dial(address, connect_timeout)
        self._connected += 1
        try:
            return await self._ask(fresh, address, request, head_timeout)
        except _Dead as error:
            raise BadResponse(f"{address} closed the connection without an answer") from error

    def forget(self, address: SocketAddress) -> None:
        """Close the idle connections to this address."""
        _close(self._pool.forget(address))

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed when their Response is."""
        self._closed = True
        _close(self._pool.clear())

    def statistics(self) -> ClientStatistics:
        """A frozen snapshot."""
        return ClientStatistics(len(self._pool), self._connected, self._reused, self._retried)

    def _take(self, address: SocketAddress) -> trio.socket.SocketType | None:
        _close(self._pool.expire(trio.current_time()))
        while (sock := self._pool.take(address)) is not None:
            if is_quiet(sock):
                self._reused += 1
                return sock
            sock.close()
        return None

    def _give_back(self, address: SocketAddress, sock: trio.socket.SocketType, *, reusable: bool) -> None:
        if not reusable or self._closed:
            sock.close()
            return
        now = trio.current_time()
        _close([*self._pool.expire(now), *self._pool.put(address, sock, now)])

    async def _ask(
        self, sock: trio.socket.SocketType, address: SocketAddress, request: h11.Request, head_timeout: float
    ) -> Response:
        # A fresh h11 connection for each exchange: bodies go past it, so it could not go on.
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.head_bytes)
        try:
            with trio.move_on_after(head_timeout):
                head = await _exchange(sock, connection, request, address)
                return self._response(sock, address, connection, request, head)
            raise ResponseTimeout(f"{address} gave no answer in {head_timeout:g} s")
        except h11.RemoteProtocolError as error:
            sock.close()
            raise BadResponse(f"{address} does not speak HTTP: {error}") from error
        except BaseException:  # whatever it was, a cancellation too: this connection is of no use any more
            sock.close()
            raise

    def _response(
        self,
        sock: trio.socket.SocketType,
        address: SocketAddress,
        connection: h11.Connection,
        request: h11.Request,
        head: h11.Response,
    ) -> Response:
        headers = Headers.of_raw(head.headers.raw_items())
        declared = headers.get("content-length")
        length = _body_length(request.method, head.status_code, headers, address)
        buffered, ended = connection.trailing_data
        source = Source(sock, buffered, length)
        return Response(
            self,
            sock,
            address,
            head.status_code,
            headers,
            None if declared is None else int(declared),
            source,
            keep_alive=_keeps_alive(head, headers) and len(buffered) <= length and not ended,
        )


def _request(method: str, target: str, headers: Headers) -> h11.Request:
    try:
        return h11.Request(method=method, target=target, headers=headers.raw())
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise ValueError(f"not a request that can be sent: {method[:20]!r} {target[:200]!r}: {error}") from error


async def _exchange(
    sock: trio.socket.SocketType, connection: h11.Connection, request: h11.Request, address: SocketAddress
) -> h11.Response:
    data = memoryview(connection.send(request) + connection.send(h11.EndOfMessage()))
    received = informational = 0
    try:
        while data:
            data = data[await sock.send(data) :]
        while not isinstance(event := connection.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                more = await sock.recv(_READ_SIZE)
                received += len(more)
                if not received:
                    raise _Dead
                connection.receive_data(more)
            elif isinstance(event, h11.InformationalResponse) and informational < INFORMATIONAL_ANSWERS:
                informational += 1
            else:
                raise BadResponse(f"{address} sent something else than an answer")
    except OSError as error:
        if not received:
            raise _Dead from error
        raise BadResponse(f"the connection to {address} broke in the head of the answer: {error}") from error
    return event


def _body_length(method: bytes, status: int, headers: Headers, address: SocketAddress) -> int:
    """How long the body is (RFC 9112, section 6.3); raise BadResponse where only chunks or the end would tell."""
    if method == b"HEAD" or status in (204, 304):
        return 0
    declared = headers.get("content-length")
    if declared is None or "transfer-encoding" in headers:
        raise BadResponse(f"{address} answered {status} with a body of unknown length")
    return int(declared)


def _keeps_alive(head: h11.Response, headers: Headers) -> bool:
    """Whether the peer takes another request on this connection (RFC 9112, section 9.3)."""
    options = ",".join(headers.get_all("connection")).lower().split(",")
    return head.http_version >= b"1.1" and "close" not in (option.strip() for option in options)


def _close(sockets: list[trio.socket.SocketType]) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.close()
