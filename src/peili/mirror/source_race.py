"""Asking for a stream of the tree: one source, and another beside it where the first is slow for its past."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from peili.follow.message import Source
from peili.follow.source_choice import SourceFailure
from peili.mirror.failure import FailureKind
from peili.mirror.growing_source import GrowingStream, SourceRefused
from peili.mirror.history import History
from peili.mirror.lookup import Observer
from peili.routing.protocol import Provider


@dataclass(frozen=True, slots=True)
class Sources:
    """What is remembered of sources, the same as of providers. `name_of`: a peer's id as the router writes it."""

    history: History
    observer: Observer
    name_of: Callable[[bytes], str]

    def provider(self, source: Source) -> Provider:
        """The source as the rest of the mirror knows it."""
        return Provider(self.name_of(source.peer.id), source.peer.host, source.peer.port, source.peer.zone)

    def is_suspect(self, source: Source, now: float) -> bool:
        """Whether it failed lately."""
        return self.history.is_suspect(self.name_of(source.peer.id), now)

    def hedge_after(self, source: Source) -> float:
        """Seconds after which another one is asked beside it."""
        return self.history.hedge_after(self.name_of(source.peer.id))

    def answered(self, source: Source, seconds: float) -> None:
        """It sent the head of an answer."""
        self.history.answered(self.name_of(source.peer.id), seconds)

    def failed(self, source: Source, kind: FailureKind, text: str, now: float) -> None:
        """It did not give what it was asked for, or not all."""
        provider = self.provider(source)
        if kind.blames_node:
            self.history.failed(provider.peer_id, now)
        self.observer.attempt_failed(provider, kind, text)


Ask = Callable[[Source], Awaitable[GrowingStream]]
Refused = Callable[[Source, SourceFailure], None]


async def first_stream(
    ask: Ask, first: Source, another: Callable[[], Source | None], sources: Sources, refused: Refused
) -> GrowingStream | None:
    """The stream of whoever answers first; None where nobody does. `another`: who else may be asked.

    `ask` raises SourceRefused; `refused` hears of every source that did. The caller closes the stream.
    """
    send, receive = trio.open_memory_channel[tuple[Source, GrowingStream | SourceRefused]](2)

    async def attempt(source: Source) -> None:
        started = trio.current_time()
        try:
            stream = await ask(source)
        except SourceRefused as error:
            send.send_nowait((source, error))
            return
        sources.answered(source, trio.current_time() - started)
        # Without a checkpoint in between: a stream is either in the channel or closed, never lost.
        send.send_nowait((source, stream))

    won: GrowingStream | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, first)
            under_way, hedge_at = 1, trio.current_time() + sources.hedge_after(first)
            while under_way:
                with trio.move_on_at(hedge_at) as patience:
                    source, outcome = await receive.receive()
                if patience.cancelled_caught:
                    hedge_at = float("inf")
                    second = another()
                    if second is not None:
                        sources.observer.hedged()
                        nursery.start_soon(attempt, second)
                        under_way += 1
                    continue
                under_way -= 1
                if isinstance(outcome, GrowingStream):
                    won = outcome
                    break
                sources.failed(source, outcome.kind, str(outcome), trio.current_time())
                refused(source, outcome.failure)
            nursery.cancel_scope.cancel()
    except BaseException:
        if won is not None:
            await won.response.aclose()
        raise
    finally:
        await _close_rest(receive)
    return won


async def _close_rest(receive: trio.MemoryReceiveChannel[tuple[Source, GrowingStream | SourceRefused]]) -> None:
    while True:
        try:
            _, outcome = receive.receive_nowait()
        except trio.WouldBlock:
            return
        if isinstance(outcome, GrowingStream):
            await outcome.response.aclose()
