"""A router that asks nobody: every key is hinted at each peer of a fixed list."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AbstractAsyncContextManager

import trio

from peili.oci.key import Key
from peili.routing.listed import ListedProviders
from peili.routing.protocol import PeerStatistics, Provider, RouterStatistics


class StaticRouter:
    """A Router for a few peers whose registry addresses are given. It listens nowhere and tells nobody anything."""

    def __init__(self, peers: Iterable[tuple[str, int]], *, own: Iterable[tuple[str, int]] = ()) -> None:
        """`peers` are (IP address, registry port); those in `own` are this node and left out."""
        ourselves = set(own)
        self._peers = tuple(
            Provider(f"{host}:{port}", host, port)
            for host, port in dict.fromkeys(peers)
            if (host, port) not in ourselves
        )
        self._keys: set[Key] = set()
        self._ready = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing until cancelled."""
        self._ready.set()
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._ready = trio.Event()

    async def provide(self, keys: Collection[Key]) -> None:
        """Count these keys as provided; the peers ask everybody anyway."""
        self._keys.update(keys)
        await trio.lowlevel.checkpoint()

    async def stop_providing(self, keys: Collection[Key]) -> None:
        """Count these keys as provided no longer."""
        self._keys.difference_update(keys)
        await trio.lowlevel.checkpoint()

    def find_providers(
        self, key: Key, *, beside_coordinators: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Provider]]:
        """Every peer, in random order, so that none is asked first each time."""
        return ListedProviders(random.sample(self._peers, len(self._peers)))

    def known_providers(self, key: Key) -> list[Provider]:
        """Nobody: no peer has said that it has anything."""
        return []

    async def wait_ready(self) -> None:
        """Wait until the router runs."""
        await self._ready.wait()

    def statistics(self) -> RouterStatistics:
        """A frozen snapshot. `connected` is not known here, and said to be False."""
        return RouterStatistics(
            kind="static",
            peer_id="",
            listen_addresses=(),
            peers=tuple(
                PeerStatistics(peer.peer_id, peer.host, peer.port, "", connected=False) for peer in self._peers
            ),
            provided_keys=len(self._keys),
            records=0,
            bootstrap_problem="",
            alone=not self._peers,
        )
