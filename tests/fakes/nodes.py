"""Whole nodes in one process: real sockets, layout stores, routers in memory. No containerd, no root."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from peili.demo.images import Layout
from peili.follow.settings import FollowSettings
from peili.http.client import Client
from peili.http.errors import SourceFailed
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange, Server, listen
from peili.members.membership import Membership
from peili.node import Node
from peili.oci.key import Key
from peili.registry.record import RequestRecord
from peili.routing.memory import MemoryNetwork, MemoryRouter
from peili.settings import LayoutStoreSettings, LogLevel, RouterProtocol, RunSettings
from peili.store.layout import LayoutStore

PORT = 5000
# A thousand nodes and providers run in one run of the tests; loopback has room for many more.
_hosts = (f"127.{a}.{b}.{c}" for a, b, c in itertools.product(
    [random.randrange(16, 250)], range(250), range(1, 255)
))  # fmt: skip


def next_host() -> str:
    """A loopback address that no other test of this run uses."""
    return next(_hosts)


def settings_for(host: str, directory: Path) -> RunSettings:
    """Short limits, so that a test of a stall takes no longer than it must."""
    return RunSettings(
        registry_address=SocketAddress(host, PORT),
        router_address=SocketAddress(host, 5001),
        operations_address=SocketAddress(host, 9090),
        advertise_address=host,
        bootstrap=(),
        store=LayoutStoreSettings(directory),
        mirrored_registries=frozenset(),
        filters=(),
        resolve_tags=True,
        resolve_latest=True,
        resolve_timeout=0.5,
        stall_timeout=0.5,
        grace_period=2.0,
        follow=FollowSettings(),
        data_directory=None,
        credentials=None,
        cluster_secret=None,
        client_networks=(),
        max_uploads=0,
        router_protocol=RouterProtocol.PEILI,
        peer_networks=(),
        zone="",
        log_level=LogLevel.ERROR,
    )


@dataclass(slots=True)
class Answer:
    """What a client got; `complete` is False where the body ended early."""

    status: int
    headers: Headers
    body: bytes
    complete: bool


@dataclass(slots=True)
class TestNode:
    """A running node, its layout and its router."""

    __test__ = False
    host: str
    node: Node
    layout: Layout
    router: MemoryRouter
    store: LayoutStore
    scope: trio.CancelScope

    async def get(self, target: str, method: str = "GET", **fields: str) -> Answer:
        """Ask this node as containerd does; keyword arguments are header fields."""
        return await fetch(self.host, target, method, **fields)

    async def records(self, count: int) -> list[RequestRecord]:
        """The latest requests, once there are at least so many: they are recorded after their answer went out."""
        with trio.fail_after(10):
            while len(self.node.recent.requests()) < count:
                await trio.sleep(0.001)
        return self.node.recent.requests()

    async def wait_offered(self, key: Key) -> None:
        """Wait until this node tells its peers of this key."""
        with trio.fail_after(10):
            while not self.router.provides(key):
                await trio.sleep(0.01)  # nothing to wait for in a router of memory


async def fetch(host: str, target: str, method: str = "GET", **fields: str) -> Answer:
    """One request on a connection of its own, the body read to its end or its break."""
    client = Client()
    headers = Headers.of({name.replace("_", "-"): value for name, value in fields.items()})
    try:
        with trio.fail_after(15):
            response = await client.open(
                SocketAddress(host, PORT), method, target, headers, connect_timeout=2, head_timeout=10
            )
            body = bytearray()
            async with response:
                while response.source.remaining:
                    try:
                        body += await response.source.receive()
                    except SourceFailed:
                        return Answer(response.status, response.headers, bytes(body), complete=False)
            return Answer(response.status, response.headers, bytes(body), complete=True)
    finally:
        await client.aclose()


@asynccontextmanager
async def running_node(
    network: MemoryNetwork,
    directory: Path,
    *,
    change: Callable[[RunSettings], RunSettings] = lambda settings: settings,
) -> AsyncIterator[TestNode]:
    """Run a node until the block is left; it is ready inside."""
    host = next_host()
    settings = change(settings_for(host, directory))
    layout = Layout(directory)
    layout.write_index()
    store = LayoutStore(directory)
    router = MemoryRouter(network, peer_id=host, host=host, registry_port=PORT, zone=settings.zone)
    membership = Membership(settings.cluster_secret) if settings.cluster_secret is not None else None
    node = Node(settings, store, router, membership)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        with trio.fail_after(10):
            while not node.readiness().ready:
                await trio.sleep(0.01)
        yield TestNode(host, node, layout, router, store, nursery.cancel_scope)
        node.stop()


@asynccontextmanager
async def fake_provider(
    network: MemoryNetwork, keys: list[Key], handler: Callable[[Exchange], Awaitable[None]], *, zone: str = ""
) -> AsyncIterator[str]:
    """A peer that provides these keys and answers as the handler says; gives its host."""
    host = next_host()
    router = MemoryRouter(network, peer_id=host, host=host, registry_port=PORT, zone=zone)
    server = Server(handler, on_error=lambda exchange, error: None)
    await router.provide(keys)
    async with trio.open_nursery() as nursery:
        await nursery.start(router.run)
        await nursery.start(server.run, await listen(SocketAddress(host, PORT)))
        yield host
        nursery.cancel_scope.cancel()
