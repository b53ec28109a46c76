"""Kademlia routers in one process, on this machine's loopback address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from peili.kademlia.message import Message, decode, encode
from peili.libp2p.host import Host, Stream
from peili.libp2p.identity import Identity
from peili.oci.key import Key
from peili.routing.bootstrap import BootstrapAddress, Source, StaticSource
from peili.routing.kademlia import KademliaRouter, KademliaSettings
from peili.routing.kademlia.members import Members
from peili.routing.protocol import Provider

PATIENCE = 60.0  # seconds until a test is given up: the machine may have much else to do
LOOPBACK = "127.0.0.1"


def port_of(router: KademliaRouter) -> int:
    return int(router.statistics().listen_addresses[0].rpartition("/")[2])


async def find(router: KademliaRouter, key: Key) -> list[Provider]:
    async with router.find_providers(key) as providers:
        return [provider async for provider in providers]


async def ask(stream: Stream, message: Message) -> Message:
    """One question on a stream of the test's own."""
    await stream.write_frame(encode(message))
    answer = await stream.read_frame(1_000_000)
    assert answer is not None
    return decode(answer)


async def until(condition: Callable[[], bool]) -> None:
    """Let everybody else run until the condition holds."""
    while not condition():
        await wait_all_tasks_blocked(0.001)


@dataclass
class Running:
    """A router that runs, and how to end it."""

    router: KademliaRouter
    scope: trio.CancelScope
    ended: trio.Event = field(default_factory=trio.Event)

    async def stop(self) -> None:
        self.scope.cancel()
        await self.ended.wait()


class Cluster:
    """Starts routers, each of which knows the first one's address."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.events: list[tuple[str, dict[str, object]]] = []
        self._first: int | None = None

    def log(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def forget(self) -> None:
        """The next router is the first again."""
        self._first = None

    async def start(
        self, registry_port: int = 5000, host: str = LOOPBACK, members: Members | None = None, **more: Any
    ) -> Running:
        sources: tuple[Source, ...] = ()
        if self._first is not None:
            sources = (StaticSource((BootstrapAddress(host, self._first),)),)
        settings = replace(KademliaSettings(host, 0, registry_port=registry_port, bootstrap=sources), **more)
        running = Running(KademliaRouter(settings, log=self.log, members=members), trio.CancelScope())
        await self.nursery.start(self._run, running)
        if self._first is None:
            self._first = port_of(running.router)
        return running

    async def _run(self, running: Running, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with running.scope:
            await running.router.run(task_status)
        running.ended.set()

    async def start_host(
        self, handlers: dict[str, Any], *, port: int = 0, identity: Identity | None = None, **more: Any
    ) -> tuple[Host, int]:
        """A peer of the test's own making."""
        listeners = await trio.open_tcp_listeners(port, host=LOOPBACK)
        host = Host(identity or Identity.generate(), agent_version="stranger", **more)
        for protocol, handler in handlers.items():
            host.set_handler(protocol, handler)

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await host.run(listeners, task_status=task_status)

        await self.nursery.start(run)
        return host, int(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def open_cluster() -> AsyncIterator[Cluster]:
    """A cluster that ends with the block, in bounded time."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield Cluster(nursery)
            nursery.cancel_scope.cancel()
