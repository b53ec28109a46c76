"""An upstream with a fault, for one node: the manifests are right, the layers are not."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.integration.lab.images import Blob, Image
from tests.integration.lab.network import Namespace

PIECE = 64 * 1024  # bytes


class Refuser:
    """Use it in a `with`. `how`: an HTTP status for layers; "corrupt": other bytes; "silent": no answer at all.

    `delay`: seconds until a layer is answered.
    """

    def __init__(
        self, namespace: Namespace, port: int, image: Image, how: int | str, *, delay: float = 0.0
    ) -> None:
        self.url = f"http://{namespace.address}:{port}"
        self.asked = threading.Event()  # for a layer
        self._ended = threading.Event()
        self._image = image
        self._how = how
        self._delay = delay
        refuser = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                refuser.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        # A socket stays in the namespace in which it was made.
        self._server = namespace.inside(lambda: ThreadingHTTPServer(("0.0.0.0", port), Handler))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        name = request.path.partition("?")[0].rpartition("/")[2]
        blob = next((blob for blob in self._image.blobs if blob.digest == name), self._image.top)
        if blob in self._image.layers:
            self.asked.set()
            time.sleep(self._delay)
            if self._how == "silent":
                self._ended.wait()
                return
            if isinstance(self._how, int):
                request.send_response(self._how)
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        self._send(request, blob)

    def _send(self, request: BaseHTTPRequestHandler, blob: Blob) -> None:
        content = blob.path.read_bytes()
        if blob in self._image.layers:
            content = content[:-PIECE] + bytes(PIECE)
        request.send_response(200)
        request.send_header("Content-Type", blob.media_type)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Docker-Content-Digest", blob.digest)
        request.end_headers()
        if request.command == "GET":
            try:
                request.wfile.write(content)
            except OSError:
                request.close_connection = True  # containerd went away
