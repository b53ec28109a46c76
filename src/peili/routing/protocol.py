"""What Peili needs of a router: who has this key?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from peili.follow.message import Answer, Ask
from peili.oci.key import Key


@dataclass(frozen=True, slots=True)
class Provider:
    """A peer that said it has a key: a hint, never a promise. `host` is an IP address as text, without brackets."""

    peer_id: str
    host: str
    port: int  # of the peer's registry endpoint
    zone: str = ""


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """One peer as this node knows it."""

    peer_id: str
    host: str
    registry_port: int
    agent: str
    connected: bool


@dataclass(frozen=True, slots=True)
class RouterStatistics:
    """A snapshot for metrics, readiness and the status page."""

    kind: str  # "kademlia", "memory" or "static"
    peer_id: str
    listen_addresses: tuple[str, ...]
    peers: tuple[PeerStatistics, ...]
    provided_keys: int  # keys that this node provides
    records: int  # provider records that this node keeps for others
    bootstrap_problem: str  # why bootstrap found nobody, for the operator; empty when it did or was not asked yet
    alone: bool  # bootstrap answered, and yielded no address but our own
    refused_peers: int = 0  # handshakes since the start with peers that are no members of this cluster


class Router(Protocol):
    """Tells the peers what this node has, and finds who has what it lacks."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Take part until cancelled; call `task_status.started()` once listening.

        When cancelled, withdraw and say goodbye to the peers, in bounded time.
        Raise OSError from the start where the address is in use.
        """
        ...

    async def provide(self, keys: Collection[Key]) -> None:
        """Tell the peers that this node has these keys, now and again before the records expire.

        Returns once the keys are taken on; the telling goes on in the background and never raises.
        """
        ...

    async def stop_providing(self, keys: Collection[Key]) -> None:
        """Take these keys back; peers of our kind hear of it at once."""
        ...

    def find_providers(
        self, key: Key, *, beside_coordinators: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Provider]]:
        """The providers of a key as they are found, best first, this node never among them, each once.

        The iteration ends when nobody else can be asked; leaving the block ends the lookup. Never raises for
        what peers do. The caller limits the time. `beside_coordinators`: the caller asks Coordination about
        the same content at the same time, so that they need not be asked twice.
        """
        ...

    def known_providers(self, key: Key) -> list[Provider]:
        """Those that this node was told of and has no doubts about, best first: nobody is asked, nothing waits."""
        ...

    async def wait_ready(self) -> None:
        """Wait until there is at least one peer, or bootstrap yielded no address but our own."""
        ...

    def statistics(self) -> RouterStatistics:
        """A frozen snapshot."""
        ...


class Coordination(Protocol):
    """The coordinators of digests that are being fetched (peili.follow)."""

    async def ask(self, ask: Ask) -> Answer | None:
        """Tell the coordinators of `ask.key`; their answer, or None where they are silent. Never raises for peers.

        The sources in an answer are peers that this node has a connection of its own to.
        """
        ...
