"""The operations endpoint: /readyz, /livez, /metrics, /status and /explain."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio

from peili.http.message import Headers
from peili.http.server import Exchange
from peili.observe.health import Readiness
from peili.oci.reference import Reference

MAXIMUM_EXPLANATIONS = 2  # at once
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
        explain: Callable[[Reference], Awaitable[dict[str, Any]]],
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._status = status
        self._explain = explain
        self._explaining = trio.CapacityLimiter(MAXIMUM_EXPLANATIONS)

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
            case "/explain":
                await self._answer_explain(exchange)
            case _:
                text = b"here are /readyz, /livez, /metrics, /status and /explain?image=\n"
                await exchange.respond(404, _TEXT, text)

    async def _answer_explain(self, exchange: Exchange) -> None:
        """It asks peers, so only a few go on at once."""
        try:
            query = parse_qs(urlsplit(exchange.request.target).query, max_num_fields=4)
            reference = Reference.parse_familiar(query.get("image", [""])[0])
        except ValueError as error:
            await exchange.respond(400, _TEXT, f"{error}\n".encode())
            return
        try:
            self._explaining.acquire_nowait()
        except trio.WouldBlock:
            await exchange.respond(503, _TEXT, b"other images are being explained; try again\n")
            return
        try:
            document = await self._explain(reference)
        finally:
            self._explaining.release()
        await exchange.respond(200, _JSON, json.dumps(document).encode())
