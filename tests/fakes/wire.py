"""What a peer of the test's own says at its registry port, byte by byte: the truth up to a point, then anything."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

MAXIMUM_HEAD = 65536
Ending = Callable[[trio.SocketStream, bytes], Awaitable[None]]  # with the bytes that would follow


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's first line, where its range starts, and its whole head in lower case."""

    method: str
    target: str
    start: int
    head: str = field(default="", compare=False)


async def read_request(stream: trio.SocketStream, buffer: bytearray) -> Asked | None:
    """The next request on a connection; None at its end."""
    while b"\r\n\r\n" not in buffer:
        data = await stream.receive_some(65536)
        if not data or len(buffer) > MAXIMUM_HEAD:
            return None
        buffer += data
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    buffer[:] = rest
    method, target, _ = head.split(b" ", 2)
    found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", head)
    return Asked(method.decode(), target.decode(), int(found[1]) if found else 0, head.decode("latin-1").lower())


def response(content: bytes, start: int, *, length: int | None = None, extra: str = "") -> bytes:
    """The head that a holder sends for this content from `start` on; `length` is what it states."""
    stated = len(content) - start if length is None else length
    lines = [f"Content-Length: {stated}", *([extra] if extra else [])]
    if start:
        lines.append(f"Content-Range: bytes {start}-{len(content) - 1}/{len(content)}")
    return "\r\n".join([f"HTTP/1.1 {206 if start else 200} OK", *lines, "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens once a body has come to byte `until`; with None nothing was sent before it, not even a head."""

    until: int | None
    ending: Ending


class FaultyHolder:
    """Answers as a holder of these blobs, whose digests are in hex. Each GET takes the next of `faults`, which
    several holders may share; without one the whole answer is sent. `asked` keeps the GETs, shared as well."""

    def __init__(self, blobs: Mapping[str, bytes], faults: list[Fault], asked: list[Asked]) -> None:
        self._blobs = dict(blobs)
        self._faults = faults
        self._asked = asked

    async def __call__(self, stream: trio.SocketStream) -> None:
        buffer = bytearray()
        while (asked := await read_request(stream, buffer)) is not None:
            content = next((body for digest, body in self._blobs.items() if digest in asked.target), None)
            if content is None:
                await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            elif asked.method == "HEAD":
                await stream.send_all(response(content, asked.start))
            else:
                self._asked.append(asked)
                fault = self._faults.pop(0) if self._faults else None
                if fault is not None:
                    if fault.until is not None:
                        await stream.send_all(response(content, asked.start) + content[asked.start : fault.until])
                    await fault.ending(stream, content[max(asked.start, fault.until or 0) :])
                    return
                await stream.send_all(response(content, asked.start) + content[asked.start :])


async def end(stream: trio.SocketStream, rest: bytes) -> None:
    """FIN."""
    await stream.send_eof()


async def silence(stream: trio.SocketStream, rest: bytes) -> None:
    """Nothing any more, as a frozen process or a link that is down."""
    await trio.sleep_forever()


async def reset(stream: trio.SocketStream, rest: bytes) -> None:
    """RST."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def crawl(stream: trio.SocketStream, rest: bytes) -> None:
    """A byte now and then, which is no progress (peili.http.stall)."""
    for byte in rest:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.2)
