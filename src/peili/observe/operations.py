"""The operations endpoint: /readyz, /livez, /metrics and /status."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from peili.http.message import Headers
from peili.http.server import Exchange
from peili.observe.health import Readiness

_TEXT = Headers.of({"Content-Type": "text/plain; charset=utf-8"})
_JSON = Headers.of({"Content-Type": "application/json"})
_METRICS = Headers.of({"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class Operations:
    """Answers the operations endpoint's requests; for the HTTP server."""

    def __init__(
        self,
        readiness: Callable[[], Readiness],
        metrics: Callable[[], bytes],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._status = status

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        if exchange.request.method not in ("GET", "HEAD"):
            await exchange.respond(405, _TEXT.with_("Allow", "GET, HEAD"), b"only GET and HEAD\n")
            return
        path = exchange.request.target.partition("?")[0]
        match path:
            case "/livez":
                # That this line runs shows that the event loop turns.
                await exchange.respond(200, _TEXT, b"alive\n")
            case "/readyz":
                readiness = self._readiness()
                status = 200 if readiness.ready else 503
                await exchange.respond(status, _TEXT, f"{readiness.reason}\n".encode())
            case "/metrics":
                await exchange.respond(200, _METRICS, self._metrics())
            case "/status":
                await exchange.respond(200, _JSON, json.dumps(self._status()).encode())
            case _:
                await exchange.respond(404, _TEXT, b"here are /readyz, /livez, /metrics and /status\n")
