"""Many clients that read slowly, in a process of their own: `python -m benchmarks.slow_readers HOST PORT …`.

The paths to ask for come as a file, one per line, and are used by turns. Says on standard output, every half
second, how many of its clients have read something, how many answers have ended, and how many bytes all have read.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stores import REGISTRY

RECEIVE_BUFFER = 16 * 1024  # bytes; the kernel doubles it. A large one would hide how slow the reader is
TURN = 0.25  # seconds between two reads of a client
SAY = 0.5  # seconds between two reports


@dataclass(slots=True)
class Reader:
    """One client. `due` is when it reads next, by the monotonic clock."""

    socket: socket.socket
    due: float
    read: int = 0
    ended: bool = False


def connect(host: str, port: int, path: str, number: int) -> Reader:
    """Ask; the answer is read later."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.settimeout(30)
    sock.connect((host, port))
    sock.sendall(f"GET /v2/{path}?ns={REGISTRY} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode())
    sock.setblocking(False)
    return Reader(sock, time.monotonic() + TURN * (number % 100) / 100)


def read_some(reader: Reader, count: int) -> None:
    """Read at most so much, now."""
    try:
        got = len(reader.socket.recv(count))
        reader.ended = not got
        reader.read += got
    except BlockingIOError:
        pass
    except OSError:
        reader.ended = True


def main() -> None:
    """HOST PORT FILE COUNT RATE STOPPED: COUNT clients at RATE bytes a second, of which STOPPED never read."""
    host, port, file, count, rate, stopped = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    paths = Path(file).read_text().split()
    readers = [connect(host, int(port), paths[n % len(paths)], n) for n in range(int(count))]
    print(f"connected {len(readers)}", flush=True)
    reading = readers[int(stopped) :]
    say_at = 0.0
    while True:
        now = time.monotonic()
        for reader in reading:
            if reader.due <= now and not reader.ended:
                read_some(reader, int(float(rate) * TURN))
                reader.due += TURN
        if now >= say_at:
            say_at = now + SAY
            begun, ended = sum(r.read > 0 for r in reading), sum(r.ended for r in reading)
            print(f"reading {begun} ended {ended} bytes {sum(r.read for r in reading)}", flush=True)
        time.sleep(TURN / 5)


if __name__ == "__main__":
    main()
