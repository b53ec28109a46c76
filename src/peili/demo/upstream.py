"""The demo's upstream registry: images in memory, a limited link, and a switch to turn it off."""

from __future__ import annotations

import trio

from peili.demo.images import Image
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange, Server, listen
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.distribution import BaseTarget, InvalidTarget, ManifestTarget, content_headers, parse_target
from peili.oci.media_types import OCTET_STREAM
from peili.oci.ranges import Span, UnsatisfiableRange, parse_range

_PIECE = 64 * 1024


class Link:
    """A link that all share: so many bytes a second in sum, given out in small pieces, first come first served."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def pass_through(self, count: int) -> None:
        """Wait until this many bytes have passed."""
        now = trio.current_time()
        self._free_at = max(self._free_at, now) + count / self._rate
        await trio.sleep_until(self._free_at)


class Upstream:
    """A registry with these images by `repository:tag`; `rate` in bytes a second, in sum for everybody."""

    def __init__(self, address: SocketAddress, rate: float) -> None:
        self.address = address
        self.bytes_sent = 0
        self.requests = 0
        self._link = Link(rate)
        self._tags: dict[str, Descriptor] = {}
        self._blobs: dict[Digest, tuple[bytes, str]] = {}
        self._scope: trio.CancelScope | None = None

    def push(self, name: str, image: Image) -> None:
        """Have this image under `repository:tag`."""
        self._tags[name] = image.descriptor
        self._blobs.update({digest: (content, OCTET_STREAM) for digest, content in image.blobs.items()})
        for part in (image, *image.parts):
            content = image.blobs[part.descriptor.digest]
            self._blobs[part.descriptor.digest] = (content, part.descriptor.media_type)

    def stop(self) -> None:
        """Turn it off: connections break, new ones are refused."""
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped or cancelled."""
        listeners = await listen(self.address)
        with trio.CancelScope() as self._scope:
            server = Server(self._answer, on_error=lambda exchange, error: None)
            await server.run(listeners, task_status)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            target = parse_target(exchange.request.target)
        except InvalidTarget as error:
            await exchange.respond(error.refusal.status, Headers(), error.refusal.body())
            return
        if isinstance(target, BaseTarget):
            await exchange.respond(200, Headers(), b"{}")
            return
        self.requests += 1
        digest = target.digest
        if isinstance(target, ManifestTarget) and target.tag is not None:
            named = self._tags.get(f"{target.repository}:{target.tag}")
            digest = named.digest if named is not None else None
        found = self._blobs.get(digest) if digest is not None else None
        if found is None or digest is None:
            await exchange.respond(404, Headers(), b"{}")
            return
        await self._send(exchange, digest, *found)

    async def _send(self, exchange: Exchange, digest: Digest, content: bytes, media_type: str) -> None:
        wanted = parse_range(exchange.request.headers.get("Range"))
        try:
            span = wanted.resolve(len(content)) if wanted is not None else Span(0, len(content))
        except UnsatisfiableRange:
            await exchange.respond(416, Headers(), b"{}")
            return
        part = span if wanted is not None else None
        fields = content_headers(Descriptor(digest, media_type, len(content)), part)
        sink = await exchange.start(200 if part is None else 206, Headers.of(fields), span.length)
        if exchange.request.method == "HEAD":
            return
        view = memoryview(content)[span.start : span.stop]
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            await self._link.pass_through(len(piece))
            await sink.write(piece)
            self.bytes_sent += len(piece)
