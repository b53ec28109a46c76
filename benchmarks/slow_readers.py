"""Many clients that read slowly, in a process of their own: `python -m benchmarks.slow_readers HOST PORT …`.

The paths to ask for come as a file, one per line, and are used by turns. Says on standard output, every half
second, how many of its clients were answered 200, how many otherwise, how many answers have ended, how many bytes
of bodies all have read, and how many the one that has read least.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stores import REGISTRY

RECEIVE_BUFFER = 16 * 1024  # bytes; the kernel doubles it. A large one would hide how slow the reader is
TURN = 0.25  # seconds between two reads of a client
SAY = 0.5  # seconds between two reports
_HEAD_END = b"\r\n\r\n"
_MOST_HEAD = 16384  # bytes


@dataclass(slots=True)
class Reader:
    """One client. `due` is when it reads next, by the monotonic clock; `stops` once it has the answer's head."""

    socket: socket.socket
    due: float
    stops: bool
    head: bytes = b""
    status: int = 0  # 0: no whole head yet
    read: int = 0  # bytes of the body
    ended: bool = False

    @property
    def reads(self) -> bool:
        """Whether it will read on."""
        return not self.ended and not (self.stops and self.status)


def connect(host: str, port: int, path: str, number: int, *, stops: bool) -> Reader:
    """Ask; the answer is read later."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.settimeout(30)
    sock.connect((host, port))
    sock.sendall(f"GET /v2/{path}?ns={REGISTRY} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode())
    sock.setblocking(False)
    return Reader(sock, time.monotonic() + TURN * (number % 100) / 100, stops)


def read_some(reader: Reader, count: int) -> None:
    """Read at most so much, now."""
    try:
        piece = reader.socket.recv(count)
    except BlockingIOError:
        return
    except OSError:
        piece = b""
    reader.ended = not piece
    take(reader, piece)


def take(reader: Reader, piece: bytes) -> None:
    """These bytes came: the head up to its end, then the body."""
    if reader.status:
        reader.read += len(piece)
        return
    reader.head += piece
    head, end, body = reader.head.partition(_HEAD_END)
    if end:
        reader.status, reader.read = int(head.split(b" ", 2)[1]), len(body)
    elif len(reader.head) > _MOST_HEAD:
        raise ValueError(f"no head of an answer: {reader.head[:200]!r}")


def said(readers: Sequence[Reader]) -> str:
    """How far they are."""
    begun = [reader for reader in readers if reader.status == 200]
    refused = sum(reader.status not in (0, 200) for reader in readers)
    ended = sum(reader.ended for reader in readers)
    least = min((reader.read for reader in begun if not reader.stops), default=0)
    return f"begun {len(begun)} refused {refused} ended {ended} bytes {sum(r.read for r in begun)} least {least}"


def main() -> None:
    """HOST PORT FILE COUNT RATE STOPPED: COUNT clients at RATE bytes a second, of which STOPPED read only heads."""
    host, port, file, count, rate, stopped = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    paths = Path(file).read_text().split()
    readers = [
        connect(host, int(port), paths[n % len(paths)], n, stops=n < int(stopped)) for n in range(int(count))
    ]
    say_at = 0.0
    while True:
        now = time.monotonic()
        for reader in readers:
            if reader.due <= now and reader.reads:
                read_some(reader, int(float(rate) * TURN))
                reader.due += TURN
        if now >= say_at:
            say_at = now + SAY
            print(said(readers), flush=True)
        time.sleep(TURN / 5)


if __name__ == "__main__":
    main()
