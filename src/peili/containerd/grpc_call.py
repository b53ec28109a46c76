"""One gRPC call on a unix connection of its own (gRPC's PROTOCOL-HTTP2.md, over h2's HTTP/2).

gRPC's own library for Python has threads that wake up all the time and takes 12 MB. containerd needs to be asked a
few small questions a minute, so a call opens a connection, and whoever no longer wants an answer closes it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from urllib.parse import unquote

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

MAXIMUM_REQUEST = 16_000  # bytes: one HTTP/2 frame, within the window that every server begins with
_READ = 65_536  # bytes at most that are taken from the socket at a time
_PREFIX = struct.Struct(">BI")  # compressed or not; bytes of the message
_CONFIG = H2Configuration(client_side=True)


class Status(IntEnum):
    """The status codes of gRPC that are told apart (its doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class NotGrpc(Exception):
    """What answers does not speak gRPC."""


class CallEnded(Exception):
    """The call was refused or failed. `status`: gRPC's code, not only one of `Status`; `detail`: why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class GrpcExchange:
    """The protocol of a call with one request and any number of answers, without a socket.

    Whoever sits on the other side may say anything: what is wrong with it is NotGrpc or CallEnded.
    """

    def __init__(self, maximum: int) -> None:
        """`maximum`: bytes of an answer."""
        self._maximum = maximum
        self._http = H2Connection(_CONFIG)
        self._received = bytearray()
        self._messages: deque[bytes] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._ended = False

    def ask(self, path: str, request: bytes, metadata: Iterable[tuple[str, str]]) -> None:
        """Write the request; once."""
        if len(request) > MAXIMUM_REQUEST:
            raise CallEnded(Status.RESOURCE_EXHAUSTED, f"a request of {len(request)} bytes is too long")
        self._http.initiate_connection()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "peili"),
            *metadata,
        ]
        stream = self._http.get_next_available_stream_id()
        self._http.send_headers(stream, headers)
        self._http.send_data(stream, _PREFIX.pack(0, len(request)) + request, end_stream=True)

    def to_send(self) -> bytes:
        """Bytes for the other side; they are given once."""
        return self._http.data_to_send()

    def feed(self, data: bytes) -> None:
        """Read bytes of the other side; none of them: it has closed the connection."""
        if not data:
            raise CallEnded(Status.UNAVAILABLE, "the connection was closed")
        try:
            for event in self._http.receive_data(data):
                self._take(event)
        except ProtocolError as error:
            raise NotGrpc(str(error)) from error

    def next_answer(self) -> bytes | None:
        """The next answer that is here as a whole, or None."""
        return self._messages.popleft() if self._messages else None

    def has_ended(self) -> bool:
        """Whether the other side has ended the call, and well; another end raises CallEnded or NotGrpc."""
        if not self._ended:
            return False
        status = self._headers.get(b"grpc-status", b"")
        if not status.isdigit() or len(status) > 3:
            raise NotGrpc("the answer has no gRPC status")
        if int(status) != Status.OK:
            raise CallEnded(int(status), unquote(self._headers.get(b"grpc-message", b"").decode("latin-1")))
        if self._received:
            raise CallEnded(Status.UNAVAILABLE, "the answer ended within a message")
        return True

    def _take(self, event: Event) -> None:
        match event:
            case DataReceived(data=data, flow_controlled_length=length, stream_id=stream):
                self._http.acknowledge_received_data(length or 0, stream or 0)
                self._received += data or b""
                self._split()
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                self._headers.update((bytes(name), bytes(value)) for name, value in headers or ())
                if self._headers.get(b":status") != b"200":
                    raise NotGrpc(f"HTTP status {self._headers.get(b':status', b'').decode('latin-1')}")
            case InformationalResponseReceived():
                raise NotGrpc("an informational response")
            case StreamReset(error_code=code):
                raise CallEnded(Status.CANCELLED, f"the call was reset (HTTP/2 error {int(code or 0)})")
            case StreamEnded():
                self._ended = True

    def _split(self) -> None:
        """Move whole messages from what was received to the queue."""
        while len(self._received) >= _PREFIX.size:
            compressed, length = _PREFIX.unpack_from(self._received)
            if compressed:
                raise NotGrpc("a compressed message, which nobody asked for")
            if length > self._maximum:
                raise CallEnded(Status.RESOURCE_EXHAUSTED, f"an answer of {length} bytes is too long")
            end = _PREFIX.size + length
            if len(self._received) < end:
                return
            self._messages.append(bytes(self._received[_PREFIX.size : end]))
            del self._received[:end]


class Call:
    """A call on a connection of its own. Raises OSError, NotGrpc and CallEnded.

    `close` may be called at any time and from any task: what waits then gets trio.ClosedResourceError.
    """

    def __init__(self, maximum: int) -> None:
        """`maximum`: bytes of an answer."""
        self._socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        self._exchange = GrpcExchange(maximum)

    def close(self) -> None:
        """End the connection, and with it the call."""
        self._socket.close()

    async def begin(self, socket: Path, path: str, request: bytes, metadata: Iterable[tuple[str, str]]) -> None:
        """Connect, and send the request."""
        self._exchange.ask(path, request, metadata)
        await self._socket.connect(str(socket))
        await self._send()

    async def receive(self) -> bytes | None:
        """The next answer, or None when the call has ended well."""
        while (answer := self._exchange.next_answer()) is None:
            if self._exchange.has_ended():
                return None
            self._exchange.feed(await self._socket.recv(_READ))
            await self._send()
        return answer

    async def _send(self) -> None:
        rest = memoryview(self._exchange.to_send())
        while rest:
            rest = rest[await self._socket.send(rest) :]
