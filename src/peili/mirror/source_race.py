"""Asking for a stream of the tree: one source, and another beside it where the first is slow for its past."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final

import trio

from peili.follow.message import Peer, Source
from peili.mirror.failure import FailureKind
from peili.mirror.growing_source import GrowingStream, SourceRefused
from peili.mirror.history import History
from peili.mirror.lookup import Observer
from peili.mirror.peer_ids import PeerIds
from peili.routing.protocol import Provider


@dataclass(frozen=True, slots=True)
class Sources:
    """What is remembered of sources, the same as of providers."""

    history: History
    observer: Observer
    peer_ids: PeerIds

    def provider(self, source: Source) -> Provider:
        """The source as the rest of the mirror knows it."""
        return Provider(self.name_of(source), source.peer.host, source.peer.port, source.peer.zone)

    def source(self, provider: Provider) -> Source:
        """The provider as a source of the tree: it has all, and is next to nobody."""
        peer = Peer(self.peer_ids.to_bytes(provider.peer_id), provider.host, provider.port, provider.zone)
        return Source(peer, 0, 0, committed=True)

    def name_of(self, source: Source) -> str:
        """Its id as the router writes it."""
        return self.peer_ids.to_text(source.peer.id)

    def is_suspect(self, source: Source, now: float) -> bool:
        """Whether it failed lately."""
        return self.history.is_suspect(self.name_of(source), now)

    def hedge_after(self, source: Source) -> float:
        """Seconds after which another one is asked beside it."""
        return self.history.hedge_after(self.name_of(source))

    def answered(self, source: Source, seconds: float) -> None:
        """It sent the head of an answer."""
        self.history.answered(self.name_of(source), seconds)

    def failed(self, source: Source, kind: FailureKind, text: str, now: float) -> None:
        """It did not give what it was asked for, or not all."""
        provider = self.provider(source)
        if kind.blames_node:
            self.history.failed(provider.peer_id, now)
        self.observer.attempt_failed(provider, kind, text)


MOST_AT_ONCE: Final = 3
_LOOK: Final = 0.02  # seconds between two looks for another one, where none was named when it was due

Ask = Callable[[Source], Awaitable[GrowingStream]]
Another = Callable[[], Source | None]
Refused = Callable[[Source, SourceRefused], None]


class SourceRace:
    """Asks one source, and others beside it when it is slow; the first stream wins. For one use.

    `ask` raises SourceRefused; `refused` hears of every source that did. `another`: who else may be asked, None
    where nobody is known (yet). `over`: who is slow is not waited for any longer.
    """

    def __init__(
        self, ask: Ask, another: Another, refused: Refused, over: Callable[[], bool], sources: Sources
    ) -> None:
        self._ask = ask
        self._another = another
        self._refused = refused
        self._over = over
        self._sources = sources
        self._send, self._receive = trio.open_memory_channel[tuple[Source, GrowingStream | SourceRefused]](
            MOST_AT_ONCE
        )
        self._under_way: set[bytes] = set()

    async def run(self, first: Source) -> GrowingStream | None:
        """The stream of whoever answers first; None where nobody does. The caller closes it."""
        won: GrowingStream | None = None
        try:
            async with trio.open_nursery() as nursery:
                won = await self._play(first, nursery)
                nursery.cancel_scope.cancel()
        except BaseException:
            if won is not None:
                await won.response.aclose()
            raise
        finally:
            await self._close_rest()
        return won

    async def _play(self, first: Source, nursery: trio.Nursery) -> GrowingStream | None:
        look_at = self._start(first, nursery)
        while self._under_way:
            with trio.move_on_at(look_at) as patience:
                source, outcome = await self._receive.receive()
            if patience.cancelled_caught:
                if self._over():
                    return None
                look_at = self._ask_beside(nursery)
                continue
            self._under_way.discard(source.peer.id)
            if isinstance(outcome, GrowingStream):
                return outcome
            self._refused(source, outcome)
        return None

    def _start(self, source: Source, nursery: trio.Nursery) -> float:
        """Ask it; return when another one is due."""
        self._under_way.add(source.peer.id)
        nursery.start_soon(self._attempt, source)
        return trio.current_time() + self._sources.hedge_after(source)

    def _ask_beside(self, nursery: trio.Nursery) -> float:
        if len(self._under_way) >= MOST_AT_ONCE:
            return inf
        source = self._another()
        if source is None or source.peer.id in self._under_way:
            return trio.current_time() + _LOOK
        self._sources.observer.hedged()
        return self._start(source, nursery)

    async def _attempt(self, source: Source) -> None:
        started = trio.current_time()
        try:
            stream = await self._ask(source)
        except SourceRefused as error:
            self._send.send_nowait((source, error))
            return
        self._sources.answered(source, trio.current_time() - started)
        # Without a checkpoint in between: a stream is either in the channel or closed, never lost.
        self._send.send_nowait((source, stream))

    async def _close_rest(self) -> None:
        while True:
            try:
                _, outcome = self._receive.receive_nowait()
            except trio.WouldBlock:
                return
            if isinstance(outcome, GrowingStream):
                await outcome.response.aclose()
