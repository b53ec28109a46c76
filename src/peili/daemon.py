"""The process: chooses the implementations, runs the node, ends it at a signal.

Only this module constructs stores and routers.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import structlog
import trio

from peili.members.membership import Membership
from peili.node import Node, StartFailed
from peili.observe.health import Setup
from peili.observe.log import configure_logging
from peili.routing.kademlia import KademliaRouter, KademliaSettings
from peili.settings import ContainerdStoreSettings, RouterProtocol, RunSettings
from peili.store.protocol import Store
from peili.version import VERSION

_log = structlog.get_logger()
# A relay costs four descriptors; the usual soft limit of 1024 would end at 250 of them.
_WANTED_DESCRIPTORS = 65536
_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BLOCK = 128 * 1024  # bytes: where glibc begins, too


def run_daemon(settings: RunSettings) -> None:
    """Run until SIGTERM; leave the process with status 1 and a sentence where it cannot start."""
    configure_logging(settings.log_level)
    _raise_descriptor_limit()
    _give_large_blocks_back()
    failed: BaseExceptionGroup[StartFailed] | None = None
    try:
        trio.run(_run, settings)
    except* StartFailed as group:
        failed = group
    if failed is not None:  # not above: Python 3.11.2 wraps what leaves such a block in a group, SystemExit too
        _fail(failed)


async def _run(settings: RunSettings) -> None:
    store = build_store(settings)
    membership = Membership(settings.cluster_secret) if settings.cluster_secret is not None else None
    router = build_router(settings, membership)
    node = Node(settings, store, router, membership, router.coordination, build_setup(settings))
    await run_until_signal(node)


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


def build_setup(settings: RunSettings) -> Setup | None:
    """Who looks whether containerd asks us; None for content that is no containerd's."""
    if not isinstance(settings.store, ContainerdStoreSettings):
        return None
    from peili.containerd.setup import ContainerdSetup, SetupSettings

    store = settings.store
    return ContainerdSetup(SetupSettings(store.socket, store.namespace, store.config_path, store.config_file))


def build_router(settings: RunSettings, membership: Membership | None) -> KademliaRouter:
    """The router of the settings; raise StartFailed where its identity cannot be read or kept."""
    spegel = settings.router_protocol is RouterProtocol.SPEGEL
    values = KademliaSettings(
        listen_host=settings.router_address.host,
        listen_port=settings.router_address.port,
        advertise=() if settings.advertise_address is None else (settings.advertise_address,),
        registry_port=settings.registry_address.port,
        zone=settings.zone,
        agent=f"peili/{VERSION}",
        identity_directory=settings.data_directory,
        bootstrap=settings.bootstrap,
        follow=settings.follow,
        peer_networks=settings.peer_networks,
        prefix=f"/{settings.router_protocol}",
        assume_registry_port=spegel,
        believe_records=spegel,
    )
    try:
        return KademliaRouter(values, log=_log.info, members=membership)
    except OSError as error:
        raise StartFailed(f"--data-dir {settings.data_directory}: {error}") from error


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


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_WANTED_DESCRIPTORS, hard)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _give_large_blocks_back() -> None:
    """Keep large blocks of memory out of the heap, so that the kernel has them back when they are freed.

    glibc does so only until it has freed one; then they lie in the heap, which keeps their room: 2 MB more after
    50,000 requests.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def _fail(group: BaseExceptionGroup[StartFailed]) -> NoReturn:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    _log.error("cannot start", problem=str(error))
    sys.exit(1)
