"""A cluster of real `peili run` processes on loopback, and what tests do to them: freeze, kill, starve, measure."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from peili.demo.images import Image, Layout
from peili.demo.process import OPERATIONS_PORT, REGISTRY_PORT, ROUTER_PORT
from peili.demo.puller import Host, Pull
from peili.demo.upstream import Link, Upstream
from peili.http.client import Client
from peili.http.errors import HttpError
from peili.http.message import Headers, SocketAddress
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.routing.bootstrap import BootstrapAddress, StaticSource
from peili.routing.kademlia import KademliaRouter, KademliaSettings
from tests.fakes.nodes import fetch, next_host

PATIENCE = 60.0  # seconds: the machine may have much else to do
MORE_DESCRIPTORS = 32  # kept connections and pipes: they are reused, and closed when idle
MORE_MEMORY = 40 << 20  # bytes; what one burst of connections leaves in the allocator


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses."""

    descriptors: int
    memory: int  # bytes, resident


class Node:
    """One process; its store is a layout."""

    def __init__(self, base: Path, first: str | None, options: Sequence[str] = ()) -> None:
        self.host = next_host()
        self.layout = Layout(base / self.host)
        self.log = base / f"{self.host}.log"
        self._first = first or self.host
        self._options = list(options)
        self._client = Client()
        self._process: trio.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        command = [sys.executable, "-m", "peili", "run", "--store", f"layout:{self.layout.directory}"]
        for name, port in (("registry", REGISTRY_PORT), ("router", ROUTER_PORT), ("operations", OPERATIONS_PORT)):
            command += [f"--{name}-address", f"{self.host}:{port}"]
        command += ["--bootstrap", f"static:{self._first}:{ROUTER_PORT}", *self._options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PEILI_")}
        with open(self.log, "ab", buffering=0, opener=_appending) as log:
            self._process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    # What is done to it

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """As a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        return await process.wait()

    async def restart(self) -> None:
        await self.kill()
        await self.start()
        await self.wait_ready()

    def limit_descriptors(self, count: int) -> None:
        """As if somebody had set `ulimit -n`: it may have so many files open from now on."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (count, hard))

    # What it says

    async def ask(self, target: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """The operations endpoint's answer; raise HttpError."""
        address = SocketAddress(self.host, OPERATIONS_PORT)
        async with await self._client.open(
            address, "GET", target, Headers(), connect_timeout=timeout, head_timeout=timeout
        ) as response:
            return response.status, await response.read(8_000_000, timeout=timeout)

    async def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((await self.ask("/status"))[1])
        return document

    async def explain(self, name: str) -> list[dict[str, Any]]:
        """The parts of an image, and who has them."""
        document = json.loads((await self.ask(f"/explain?image={name}"))[1])
        parts: list[dict[str, Any]] = document["parts"]
        return parts

    async def readiness(self) -> int | None:
        """The status of /readyz, or None where nobody answers."""
        try:
            return (await self.ask("/readyz", timeout=1.0))[0]
        except HttpError:
            return None

    async def metric(self, name: str) -> float:
        """The sum of the samples that begin so, as Prometheus writes them."""
        lines = (await self.ask("/metrics"))[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    async def wait_ready(self) -> None:
        await wait_until(lambda: self._is(200), f"{self.host} ready; see {self.log}")

    async def _is(self, status: int) -> bool:
        return await self.readiness() == status

    def use(self) -> Use:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return Use(len(os.listdir(f"/proc/{self.pid}/fd")), pages * resource.getpagesize())  # noqa: PTH208

    def errors(self) -> list[str]:
        """What it says of itself that must not be."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if '"level": "error"' in line or "Traceback" in line]

    async def wait_as_before(self, before: Use, *, new_peers: int = 0) -> None:
        """It answers no request any more, gave back what it took, is ready, and logged no error.

        `new_peers`: how many joined since, with each of which it keeps a connection.
        """
        seen, allowed = "", before.descriptors + MORE_DESCRIPTORS + new_peers

        async def idle() -> bool:
            nonlocal seen
            in_flight, now = (await self.status())["registry"]["in_flight"], self.use()
            seen = f"{in_flight} requests, {now} after {before}"
            return bool(in_flight == 0 and now.descriptors <= allowed)

        try:
            await wait_until(idle, f"{self.host} idle again")
        except AssertionError as error:
            error.add_note(seen)
            raise
        after = self.use()
        assert after.memory < before.memory + MORE_MEMORY, (before, after)
        assert await self.readiness() == 200
        assert self.errors() == []

    async def aclose(self) -> None:
        await self.kill()
        await self._client.aclose()


@dataclass(slots=True)
class Cluster:
    """Makes nodes, peers of the test's own, an upstream; everything ends with the block."""

    base: Path
    nursery: trio.Nursery
    nodes: list[Node] = field(default_factory=list)
    client: Client = field(default_factory=Client)
    upstream: Upstream | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def first(self) -> str | None:
        return self.nodes[0].host if self.nodes else None

    async def start(self, count: int, *options: str, images: Sequence[tuple[str, Image]] = ()) -> list[Node]:
        """So many nodes more, ready, the first `images` in the layouts of all of them."""
        made = []
        for _ in range(count):
            node = Node(self.base, self.first, options)
            self.nodes.append(node)
            made.append(node)
            for name, image in images:
                node.layout.add(name, image)
            await node.start()
        for node in made:
            await node.wait_ready()
        return made

    async def serve_upstream(self, rate: float = 1e9) -> Upstream:
        self.upstream = Upstream(SocketAddress(next_host(), REGISTRY_PORT), rate)
        await self.nursery.start(self.upstream.run)
        return self.upstream

    async def peer(
        self,
        keys: Sequence[Key],
        handler: Callable[[trio.SocketStream], Awaitable[None]],
        *,
        zone: str = "",
        **others: Any,
    ) -> str:
        """A node of the test's making that provides these keys; `handler` gets each connection to its registry
        port, and the connection is closed when it returns. `others`: of its KademliaSettings. Gives its host."""
        assert self.first is not None
        host = next_host()
        source = StaticSource((BootstrapAddress(self.first, ROUTER_PORT),))
        settings = KademliaSettings(
            host,
            ROUTER_PORT,
            advertise=(host,),
            registry_port=REGISTRY_PORT,
            zone=zone,
            bootstrap=(source,),
            **others,
        )
        router = KademliaRouter(settings, log=lambda event, **fields: None)
        await router.provide(keys)

        async def serve(stream: trio.SocketStream) -> None:
            async with stream:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await handler(stream)

        listeners = await trio.open_tcp_listeners(REGISTRY_PORT, host=host)
        await self.nursery.start(partial(trio.serve_listeners, serve, listeners))
        await self.nursery.start(router.run)
        await router.wait_ready()
        return host

    async def pull(
        self, node: Node, name: str, *, rate: float | None = None, progress: Callable[[int], None] | None = None
    ) -> Pull:
        """Pull into the node's layout, through its Peili and then from upstream; raise PullFailed."""
        hosts = [Host("peers", SocketAddress(node.host, REGISTRY_PORT))]
        if self.upstream is not None:
            hosts.append(Host("upstream", self.upstream.address))
        link = Link(rate) if rate is not None else None
        pull = Pull(self.client, hosts, node.layout, Reference.parse(name), link, progress or (lambda count: None))
        with trio.fail_after(PATIENCE):
            await pull.run()
        return pull


@asynccontextmanager
async def cluster(base: Path) -> AsyncIterator[Cluster]:
    """A cluster without nodes yet."""
    async with trio.open_nursery() as nursery:
        made = Cluster(base, nursery)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                for node in made.nodes:
                    await node.aclose()
                await made.client.aclose()
            nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], Awaitable[object]], what: str, seconds: float = PATIENCE) -> None:
    """Look until it holds: what other processes do cannot be waited for otherwise."""
    with trio.move_on_after(seconds):
        while True:
            try:
                if await condition():
                    return
            except HttpError:
                pass  # it is not there, or busy
            await trio.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def manifest_target(name: str) -> str:
    reference = Reference.parse(name)
    return f"/v2/{reference.repository}/manifests/{reference.tag}?ns={reference.registry}"


def blob_target(name: str, digest: Digest) -> str:
    reference = Reference.parse(name)
    return f"/v2/{reference.repository}/blobs/{digest}?ns={reference.registry}"


async def wait_offered(puller: Node, name: str, image: Image, *, holders: int = 1) -> None:
    """Wait until this node finds the whole image among its peers, each part of it at so many of them."""

    async def found() -> bool:
        targets = [manifest_target(name), *(blob_target(name, layer.digest) for layer in image.layers)]
        return all([(await fetch(puller.host, target, "HEAD")).status == 200 for target in targets]) and (
            holders == 1 or all(len(part["providers"]) >= holders for part in await puller.explain(name))
        )

    await wait_until(found, f"{name} offered to {puller.host}")


def keys_of(name: str, image: Image) -> list[Key]:
    """All that is looked up for a pull of it."""
    return [Key(name), *(Key(str(digest)) for digest in image.blobs)]


def holds(node: Node, image: Image) -> bool:
    """Whether the node's layout has it all, byte for byte."""
    return all(node.layout.path(digest).read_bytes() == content for digest, content in image.blobs.items())


def _appending(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)
