"""A client that pulls as containerd does, for the demo and for tests without containerd.

Hosts are tried in order, the upstream last; three layers at a time; a body that ends early is asked for again from
the offset, all hosts from the first; four answers in a row without a byte fail the pull; every blob is written
where peers can follow it (peili.demo.ingest) before the first request, and when it is whole checked by its digest
and renamed into the node's OCI layout (containerd, core/remotes/docker). A pull that fails leaves no ingest behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from peili.demo.images import Layout
from peili.demo.ingest import Ingest, WrongDigest
from peili.demo.upstream import Link
from peili.http.client import Client, Response
from peili.http.errors import HttpError
from peili.http.message import Headers, SocketAddress
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.media_types import INDEXES
from peili.oci.reference import Reference

_LAYERS_AT_ONCE = 3
_ATTEMPTS_WITHOUT_BYTES = 4
_TIMEOUT = 30.0  # seconds for a connection or a head
_PLATFORM = ("linux", "amd64")


class PullFailed(Exception):
    """No host gave what the image needs."""


@dataclass(frozen=True, slots=True)
class Host:
    """Somewhere to ask: `name` is "peers" for this node's Peili, "upstream" for the registry."""

    name: str
    address: SocketAddress


@dataclass(slots=True)
class Pull:
    """One pull of one image into one layout. `received`: bytes of bodies by host's name; `seconds` at the end."""

    client: Client
    hosts: Sequence[Host]
    layout: Layout
    reference: Reference
    link: Link | None = None  # of this node, shared by its transfers
    progress: Callable[[int], None] = lambda count: None
    received: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    seconds: float = 0.0

    async def run(self) -> None:
        """Pull; raise PullFailed."""
        started = trio.current_time()
        target = await self._resolve()
        document = await self._json("manifests", target)
        manifest = target
        if target.media_type in INDEXES:
            manifest = _descriptor(next(filter(_is_ours, document["manifests"])))
            document = await self._json("manifests", manifest)
        await self._blob("blobs", _descriptor(document["config"]))
        limit = trio.CapacityLimiter(_LAYERS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for layer in dict.fromkeys(map(_descriptor, document["layers"])):
                nursery.start_soon(self._layer, layer, limit)
        self.layout.name(str(self.reference), target)
        self.seconds = trio.current_time() - started

    async def _resolve(self) -> Descriptor:
        for host in self.hosts:
            response = await self._ask(host, "HEAD", "manifests", str(self.reference.tag), 0)
            if response is not None:
                async with response:
                    fields = response.headers
                    digest = Digest.parse(fields.get("Docker-Content-Digest") or "")
                    size = response.content_length or 0
                    return Descriptor(digest, fields.get("Content-Type") or "", size)
        raise PullFailed(f"no host knows {self.reference}")

    async def _json(self, kind: str, descriptor: Descriptor) -> Any:
        await self._blob(kind, descriptor)
        return json.loads(self.layout.path(descriptor.digest).read_bytes())

    async def _layer(self, descriptor: Descriptor, limit: trio.CapacityLimiter) -> None:
        async with limit:
            await self._blob("blobs", descriptor)

    async def _blob(self, kind: str, descriptor: Descriptor) -> None:
        async with self.layout.lock(descriptor.digest):
            if self.layout.path(descriptor.digest).exists():
                return
            ingest = Ingest(self.layout.directory, descriptor)
            try:
                await self._fetch(kind, descriptor, ingest)
                await trio.to_thread.run_sync(ingest.commit)
            except WrongDigest as error:
                raise PullFailed(str(error)) from error
            finally:
                ingest.abort()

    async def _fetch(self, kind: str, descriptor: Descriptor, ingest: Ingest) -> None:
        fruitless = 0
        while ingest.offset < descriptor.size:
            before = ingest.offset
            await self._read_some(kind, descriptor, ingest)
            fruitless = 0 if ingest.offset > before else fruitless + 1
            if fruitless == _ATTEMPTS_WITHOUT_BYTES:
                raise PullFailed(f"no host has {descriptor.digest}")
            self.resumed += 0 < ingest.offset < descriptor.size

    async def _read_some(self, kind: str, descriptor: Descriptor, ingest: Ingest) -> None:
        """From the first host that answers, until its body ends, early or not."""
        for host in self.hosts:
            response = await self._ask(host, "GET", kind, str(descriptor.digest), ingest.offset)
            if response is None:
                continue
            async with response:
                try:
                    while response.source.remaining:
                        piece = await response.source.receive()
                        ingest.write(piece)
                        self.received[host.name] = self.received.get(host.name, 0) + len(piece)
                        self.progress(len(piece))
                        if self.link is not None:
                            await self.link.pass_through(len(piece))
                except HttpError:
                    return
            return

    async def _ask(self, host: Host, method: str, kind: str, name: str, offset: int) -> Response | None:
        """An answer with content from the offset on, or None: the next host then."""
        target = f"/v2/{self.reference.repository}/{kind}/{name}?ns={self.reference.registry}"
        headers = Headers.of({"Range": f"bytes={offset}-"} if offset else {})
        try:
            response = await self.client.open(
                host.address, method, target, headers, connect_timeout=_TIMEOUT, head_timeout=_TIMEOUT
            )
        except HttpError:
            return None
        if response.status == (206 if offset else 200):
            return response
        await response.aclose()
        return None


def _descriptor(fields: dict[str, Any]) -> Descriptor:
    return Descriptor(Digest.parse(fields["digest"]), fields["mediaType"], fields["size"])


def _is_ours(fields: dict[str, Any]) -> bool:
    platform = fields.get("platform", {})
    return (platform.get("os"), platform.get("architecture")) == _PLATFORM
