"""The process: chooses the implementations, runs the node, ends it at a signal.

Only this module (and the demo) constructs implementations.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from typing import NoReturn

# gRPC reads it when it is imported: Peili never forks, and the handlers only cost.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import structlog
import trio

from peili.node import Node, StartFailed
from peili.observe.log import configure_logging
from peili.routing.bootstrap import StaticSource
from peili.routing.protocol import Router
from peili.routing.static import StaticRouter
from peili.settings import ContainerdStoreSettings, RunSettings
from peili.store.protocol import Store

_log = structlog.get_logger()
# A relay costs four descriptors; the usual soft limit of 1024 would end at 250 of them.
_WANTED_DESCRIPTORS = 65536


def run_daemon(settings: RunSettings) -> None:
    """Run until SIGTERM; leave the process with status 1 and a sentence where it cannot start."""
    configure_logging(settings.log_level)
    _raise_descriptor_limit()
    try:
        trio.run(_run, settings)
    except* StartFailed as group:
        _fail(group)


async def _run(settings: RunSettings) -> None:
    store = build_store(settings)
    await run_until_signal(Node(settings, store, build_router(settings)))


def build_store(settings: RunSettings) -> Store:
    """The content store that the settings name."""
    if isinstance(settings.store, ContainerdStoreSettings):
        from peili.store.containerd import ContainerdStore

        return ContainerdStore(
            socket=settings.store.socket,
            namespace=settings.store.namespace,
            content_path=settings.store.content_path,
        )
    from peili.store.layout import LayoutStore

    return LayoutStore(settings.store.directory)


def build_router(settings: RunSettings) -> Router:
    """The router that the settings name."""
    # Until the Kademlia router is there: the registries at the static bootstrap addresses are asked for every key.
    peers = [
        (address.host, settings.registry_address.port)
        for source in settings.bootstrap
        if isinstance(source, StaticSource)
        for address in source.addresses
    ]
    return StaticRouter(peers, own=[(own_address(settings), settings.registry_address.port)])


async def run_until_signal(node: Node) -> None:
    """Run a node; SIGTERM and SIGINT end it cleanly, a second one at once. Raise StartFailed, in a group."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    node.stop()
                    break
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await node.run()
            nursery.cancel_scope.cancel()


def own_address(settings: RunSettings) -> str:
    """The address that peers are told: as set, else the router's own, else that of the default route."""
    if settings.advertise_address is not None:
        return settings.advertise_address
    bound = ip_address(settings.router_address.host)
    if not bound.is_unspecified:
        return str(bound)
    for family, documentation in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Connecting a datagram socket sends nothing; the kernel only chooses the address it would send from.
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((documentation, 9))
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_WANTED_DESCRIPTORS, hard)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fail(group: BaseExceptionGroup[StartFailed]) -> NoReturn:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    _log.error("cannot start", problem=str(error))
    sys.exit(1)
