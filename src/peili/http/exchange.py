"""One request being answered."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import h11
import trio

from peili.http.message import Headers, Request
from peili.http.sink import Sink
from peili.http.stages import StagePool
from peili.http.transfer import Data, send_all, send_together

# Answers that never have a body (RFC 9112, section 6.3).
_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Exchange:
    """A request, and the one answer to it. The handler calls `respond`, or `start` and then fills the Sink."""

    __slots__ = (
        "_bodiless",
        "_closing",
        "_connection",
        "_pool",
        "_sink",
        "_socket",
        "_timeout",
        "head_at",
        "request",
        "status",
    )

    def __init__(
        self,
        request: Request,
        connection: h11.Connection,
        sock: trio.socket.SocketType,
        pool: StagePool,
        *,
        write_timeout: float,
        closing: Callable[[], bool],
    ) -> None:
        """`closing`: whether the connection ends after this answer; asked when the head is sent."""
        self.request = request
        self.status: int | None = None
        self.head_at: float | None = None  # when the head of the answer was ready; trio's clock, in seconds
        self._connection = connection
        self._socket = sock
        self._pool = pool
        self._timeout = write_timeout
        self._closing = closing
        self._bodiless = False
        self._sink: Sink | None = None

    @property
    def started(self) -> bool:
        """Whether an answer was begun."""
        return self.status is not None

    @property
    def body_sent(self) -> int:
        """How many bytes of the body were given to the client's socket."""
        return 0 if self._sink is None else self._sink.length - self._sink.remaining

    async def respond(self, status: int, headers: Headers, body: Data = b"") -> None:
        """Send a whole answer, its head and body in one piece, the body uncopied; raise SinkClosed.

        Content-Length is the body's, except where the answer has none (HEAD, 204, 304): then a given one stays.
        """
        if not (self.request.method == "HEAD" or status in _WITHOUT_BODY) or "content-length" not in headers:
            headers = headers.with_("Content-Length", str(len(body)))
        if status == HTTPStatus.NO_CONTENT:
            headers = headers.without("Content-Length")
        head = self._head(status, headers)
        sink = self._new_sink(len(body))
        sent = 0

        def account(count: int) -> None:
            nonlocal sent
            sent += count
            sink.remaining = sink.length - max(0, sent - len(head))

        rest = b"" if self._bodiless else body
        await send_together(self._socket.fileno(), head, rest, account, self._timeout)

    async def start(self, status: int, headers: Headers, length: int) -> Sink:
        """Send the head, with Content-Length: length; the body goes into the Sink. Raise SinkClosed.

        Where the answer has no body (HEAD, 204, 304), the Sink takes nothing.
        """
        headers = headers.with_("Content-Length", str(length))
        head = self._head(status, headers)
        sink = self._new_sink(length)
        await send_all(self._socket.fileno(), head, _ignore, self._timeout)
        return sink

    def _head(self, status: int, headers: Headers) -> bytes:
        if self.started:
            raise RuntimeError("this request was answered already")
        if not 200 <= status <= 599:
            raise ValueError(f"not the status of a final answer: {status}")
        if "transfer-encoding" in headers:
            raise ValueError("an answer is never chunked")
        if self._closing():
            headers = headers.with_("Connection", "close")
        try:
            head = self._connection.send(
                h11.Response(status_code=status, headers=headers.raw(), reason=reason(status))
            )
        except h11.LocalProtocolError as error:
            raise ValueError(f"not an answer that can be sent: {error}") from error
        self.status = status
        self.head_at = trio.current_time()
        self._bodiless = self.request.method == "HEAD" or status in _WITHOUT_BODY
        return head

    def _new_sink(self, length: int) -> Sink:
        self._sink = Sink(
            self._socket, 0 if self._bodiless else length, write_timeout=self._timeout, pool=self._pool
        )
        return self._sink

    def finish(self) -> bool:
        """Tell h11 that the body went by another way; return whether the connection can take another request."""
        if self._sink is None or self._sink.remaining:
            return False
        if self._sink.length:
            # h11 asks nothing of the data but its length; see 'sendfile' in its documentation.
            self._connection.send_with_data_passthrough(h11.Data(data=cast(bytes, _Sent(self._sink.length))))
        self._connection.send(h11.EndOfMessage())
        return self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE


def reason(status: int) -> bytes:
    """The reason phrase of a status; empty where there is no such status."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def _ignore(count: int) -> None:
    """A head's bytes are not counted."""


class _Sent:
    """Stands for bytes that the kernel has moved."""

    __slots__ = ("_length",)

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length
