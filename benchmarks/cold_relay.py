"""An upstream that limits each connection and not the sum: a relay in front of a registry that paces what it sends.

Neither tc's fq nor netem is in every kernel; TCP itself paces a socket with SO_MAX_PACING_RATE (socket(7)).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from types import TracebackType
from typing import Self

from tests.integration.lab.network import Namespace

SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; bytes a second
PIECE = 256 * 1024  # bytes moved at once


class Relay:
    """Use it in a `with`. It listens in the registry's namespace; each connection to it gets one of its own."""

    def __init__(self, namespace: Namespace, port: int, registry_port: int) -> None:
        self.url = f"http://{namespace.address}:{port}"
        self._namespace = namespace
        self._registry_port = registry_port
        self._rate: int | None = None
        # A socket stays in the namespace in which it was made.
        self._server = namespace.inside(lambda: socket.create_server(("0.0.0.0", port), backlog=128))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # accept() ends; close() alone would leave it waiting
        self._thread.join()
        self._server.close()

    def limit(self, megabits: int | None) -> None:
        """What each connection that begins from now on may get, in Mbit/s; None lifts it."""
        self._rate = megabits

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._namespace.connect("127.0.0.1", self._registry_port) as registry:
            registry.settimeout(None)
            if self._rate is not None:
                client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, self._rate * 1_000_000 // 8)
            back = threading.Thread(target=_move, args=(registry, client), daemon=True)
            back.start()
            _move(client, registry)
            back.join()


def _move(source: socket.socket, target: socket.socket) -> None:
    """Everything that comes from there, without a copy through this process; then the end, in both directions."""
    reader, writer = os.pipe()
    try:
        with contextlib.suppress(OSError):
            while moved := os.splice(source.fileno(), writer, PIECE):
                while moved:
                    moved -= os.splice(reader, target.fileno(), moved)
    finally:
        os.close(reader)
        os.close(writer)
        for end, how in ((source, socket.SHUT_RD), (target, socket.SHUT_WR)):
            with contextlib.suppress(OSError):
                end.shutdown(how)
