"""Routers that find each other in one process: for tests, and for a node without peers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager

import trio

from peili.oci.key import Key
from peili.routing.listed import ListedProviders
from peili.routing.protocol import PeerStatistics, Provider, RouterStatistics


class MemoryNetwork:
    """What several MemoryRouters share: which of them take part now."""

    def __init__(self) -> None:
        self.running: dict[str, MemoryRouter] = {}  # by peer id


class MemoryRouter:
    """A Router whose peers are the other routers of the same MemoryNetwork that are running."""

    def __init__(
        self,
        network: MemoryNetwork | None = None,
        *,
        peer_id: str = "memory",
        host: str = "127.0.0.1",
        registry_port: int = 5000,
        zone: str = "",
    ) -> None:
        """Without a network the router is alone. `peer_id` is unique in its network."""
        self._network = network if network is not None else MemoryNetwork()
        self._self = Provider(peer_id, host, registry_port, zone)
        self._keys: set[Key] = set()
        self._ready = trio.Event()

    @property
    def provider(self) -> Provider:
        """This node, as the others find it."""
        return self._self

    def provides(self, key: Key) -> bool:
        """Whether this node has said that it has this key."""
        return key in self._keys

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be found by the others until cancelled. Raise OSError where the peer id is taken."""
        if self._self.peer_id in self._network.running:
            raise OSError(f"a router with the peer id {self._self.peer_id!r} is running already")
        self._network.running[self._self.peer_id] = self
        self._ready.set()
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            del self._network.running[self._self.peer_id]
            self._ready = trio.Event()

    async def provide(self, keys: Collection[Key]) -> None:
        """Have these keys found here, as long as the router runs."""
        self._keys.update(keys)
        await trio.lowlevel.checkpoint()

    async def stop_providing(self, keys: Collection[Key]) -> None:
        """Have these keys found here no longer; unknown ones are ignored."""
        self._keys.difference_update(keys)
        await trio.lowlevel.checkpoint()

    def find_providers(
        self, key: Key, *, beside_coordinators: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Provider]]:
        """The other running routers with this key: the same zone first, else in random order."""
        return ListedProviders(self.known_providers(key))

    def known_providers(self, key: Key) -> list[Provider]:
        """The same: nobody has to be asked."""
        found = [peer.provider for peer in self._others() if peer.provides(key)]
        random.shuffle(found)
        found.sort(key=lambda provider: not self._self.zone or provider.zone != self._self.zone)
        return found

    async def wait_ready(self) -> None:
        """Wait until the router runs."""
        await self._ready.wait()

    def statistics(self) -> RouterStatistics:
        """A frozen snapshot."""
        others = self._others()
        return RouterStatistics(
            kind="memory",
            peer_id=self._self.peer_id,
            listen_addresses=(),
            peers=tuple(
                PeerStatistics(
                    peer.provider.peer_id, peer.provider.host, peer.provider.port, "memory", connected=True
                )
                for peer in others
            ),
            provided_keys=len(self._keys),
            records=0,
            bootstrap_problem="",
            alone=not others,
        )

    def _others(self) -> list[MemoryRouter]:
        return [peer for peer in self._network.running.values() if peer is not self]
