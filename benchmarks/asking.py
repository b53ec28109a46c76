"""A client that measures: one kept connection, blocking sockets, and as little Python as can be in the way."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from benchmarks.stores import REGISTRY

_MOST = 1 << 20  # bytes read at once
_HEAD_END = b"\r\n\r\n"
TIMEOUT = 60.0  # seconds

Write = Callable[[memoryview], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer. Times in seconds from the moment that the request was sent."""

    status: int
    first_byte: float  # of the body, or the head's end where there is none
    whole: float
    size: int  # of the body


class Asker:
    """A connection to a node's registry endpoint, as this node's containerd keeps it."""

    def __init__(self, host: str, port: int, *, source: str | None = None) -> None:
        self._host = host
        self._socket = socket.create_connection((host, port), TIMEOUT, (source, 0) if source else None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_MOST)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(
        self,
        path: str,
        *,
        method: str = "GET",
        peer: bool = False,
        write: Callable[[memoryview], None] | None = None,
    ) -> Answered:
        """Ask for a path below /v2/, as containerd or as a peer; read the whole answer, and write or forget it."""
        more = "X-Peili-Mirrored: true\r\n" if peer else ""
        request = f"{method} /v2/{path}?ns={REGISTRY} HTTP/1.1\r\nHost: {self._host}\r\nAccept: */*\r\n{more}\r\n"
        started = time.perf_counter()
        self._socket.sendall(request.encode())
        head, body = self._head()
        status, length = _read_head(head)
        length = 0 if method == "HEAD" else length
        if not body and length:
            body = self._receive(length)
        first_byte = time.perf_counter() - started
        left = length - len(body)
        if write is not None:
            write(body)
        while left:
            body = self._receive(left)
            left -= len(body)
            if write is not None:
                write(body)
        return Answered(status, first_byte, time.perf_counter() - started, length)

    def _head(self) -> tuple[bytes, memoryview]:
        """The head, and what of the body came with it."""
        head = b""
        while _HEAD_END not in head:
            head += self._receive(16384)
        head, _, rest = head.partition(_HEAD_END)
        return head, memoryview(rest)

    def _receive(self, most: int) -> memoryview:
        count = self._socket.recv_into(self._buffer, min(most, _MOST))
        if not count:
            raise ConnectionError("the node ended the connection")
        return memoryview(self._buffer)[:count]


def _read_head(head: bytes) -> tuple[int, int]:
    status = int(head.split(b" ", 2)[1])
    fields = (line.split(b":", 1) for line in head.split(b"\r\n")[1:])
    lengths = [int(value) for name, value in fields if name.lower() == b"content-length"]
    return status, lengths[0] if lengths else 0
