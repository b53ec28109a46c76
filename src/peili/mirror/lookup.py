"""The part of a race that acts: asks the router and the providers as the Race decides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from peili.mirror.attempt import Answer, Asker, Wanted, close
from peili.mirror.body_budget import NoRoom
from peili.mirror.failure import AttemptFailed, FailureKind, RangeBeyondEnd
from peili.mirror.history import UNKNOWN_HEDGE, History
from peili.mirror.race import GiveUp, Race, RaceLimits, Start
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.routing.protocol import Provider, Router


class Observer(Protocol):
    """Who wants to hear what happens on the way; metrics, mostly. Must not raise and must not wait."""

    def attempt_failed(self, provider: Provider, kind: FailureKind, text: str) -> None:
        """A provider brought nothing, or not all."""
        ...

    def hedged(self) -> None:
        """A second provider was asked beside a slow one."""
        ...

    def resumed(self) -> None:
        """A body goes on from another provider."""
        ...

    def thrown_away(self, digest: Digest, providers: Collection[str]) -> None:
        """containerd threw away what it received of this digest from these providers: its bytes were wrong."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The race was won. `attempts` providers were asked; `resolve_seconds` until the first was named."""

    answer: Answer
    attempts: int
    resolve_seconds: float


@dataclass(frozen=True, slots=True)
class NotFound:
    """Nobody has it, or nobody could be asked in time.

    `size` is that of the whole content where a provider has it, and the range asked for begins beyond its end.
    """

    reason: str
    attempts: int
    resolve_seconds: float
    size: int | None = None


@dataclass(frozen=True, slots=True)
class _Named:
    provider: Provider


@dataclass(frozen=True, slots=True)
class _Exhausted:
    pass


@dataclass(frozen=True, slots=True)
class _Won:
    answer: Answer
    seconds: float


@dataclass(frozen=True, slots=True)
class _Lost:
    provider: Provider
    failure: AttemptFailed


@dataclass(frozen=True, slots=True)
class _Unread:
    """The provider's answer found no room."""

    provider: Provider


_Event = _Named | _Exhausted | _Won | _Lost | _Unread


@dataclass(slots=True)
class _Notes:
    """What a race hears on its way: when the first provider was named, and the size of too short a content.

    `failed`: those that are at fault.
    """

    failed: set[str]
    resolved: float | None = None
    size: int | None = None


# Events that may wait for the loop: it takes each at once, so this only has to cover one burst of the router.
_EVENT_BUFFER = 256


class Lookup:
    """Finds providers of a key and races them."""

    def __init__(
        self, router: Router, asker: Asker, history: History, limits: RaceLimits, observer: Observer
    ) -> None:
        self._router = router
        self._asker = asker
        self._history = history
        self.limits = limits
        self._observer = observer

    def known(self, key: Key) -> list[Provider]:
        """The providers of this key that this node was told of, best first; without those that failed lately."""
        now = trio.current_time()
        return [
            each for each in self._router.known_providers(key) if not self._history.is_suspect(each.peer_id, now)
        ]

    async def name_first(self, key: Key, named: Callable[[Provider], None]) -> None:
        """Name the first provider of this key that is found, by a caller that asks the coordinators as well."""
        async with self._router.find_providers(key, beside_coordinators=True) as providers:
            async for provider in providers:
                named(provider)
                return

    async def name_all(self, key: Key, named: Callable[[Provider], None]) -> None:
        """Name all providers of this key as they are found."""
        async with self._router.find_providers(key) as providers:
            async for provider in providers:
                named(provider)

    async def run(
        self,
        key: Key,
        wanted: Wanted,
        excluded: Collection[str] = (),
        failed: set[str] | None = None,
        known: Sequence[Provider] = (),
    ) -> Found | NotFound:
        """Race the providers of this key; the caller closes the answer of a Found.

        The ids of those that are at fault are added to `failed`. `known`: providers that are named already; others
        are looked for only when these are slow, and not where all of them fail at once: then nobody is found.
        """
        started = trio.current_time()
        race = Race(self.limits, self._history, now=started, excluded=excluded)
        send, receive = trio.open_memory_channel[_Event](_EVENT_BUFFER)
        won: _Won | None = None
        notes = _Notes(set() if failed is None else failed)
        for provider in known:
            self._note(race, _Named(provider), notes)
        if known:
            race.exhausted()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._name_providers, key, send, UNKNOWN_HEDGE if known else 0.0)
                outcome = await self._play(race, wanted, nursery, send, receive, notes)
                if isinstance(outcome, _Won):
                    won = outcome
                nursery.cancel_scope.cancel()
        except BaseException:  # cancelled in the very moment when it was won
            if won is not None:
                await close(won.answer)
            raise
        finally:
            # Attempts that were won in the same moment, and everything when we are cancelled.
            await _close_answers(receive)
        resolve_seconds = (trio.current_time() if notes.resolved is None else notes.resolved) - started
        if won is not None:
            return Found(won.answer, race.attempts, resolve_seconds)
        assert isinstance(outcome, GiveUp)
        return NotFound(outcome.reason, race.attempts, resolve_seconds, notes.size)

    async def _play(
        self,
        race: Race,
        wanted: Wanted,
        nursery: trio.Nursery,
        send: trio.MemorySendChannel[_Event],
        receive: trio.MemoryReceiveChannel[_Event],
        notes: _Notes,
    ) -> _Won | GiveUp:
        while True:
            step = race.next_step(trio.current_time())
            if isinstance(step, GiveUp):
                return step
            if isinstance(step, Start):
                race.started(step.provider, trio.current_time())
                if step.hedge:
                    self._observer.hedged()
                nursery.start_soon(self._attempt, step.provider, wanted, send)
                continue
            with trio.move_on_at(step.until):
                event = await receive.receive()
                if isinstance(event, _Won):
                    self._history.answered(event.answer.provider.peer_id, event.seconds)
                    return event
                self._note(race, event, notes)

    def _note(self, race: Race, event: _Named | _Exhausted | _Lost | _Unread, notes: _Notes) -> None:
        match event:
            case _Named(provider):
                if notes.resolved is None:
                    notes.resolved = trio.current_time()
                race.found(provider, trio.current_time())
            case _Exhausted():
                race.exhausted()
            case _Unread(provider):
                race.found_no_room(provider)
            case _Lost(provider, failure):
                busy = failure.kind is FailureKind.BUSY
                race.failed(provider, busy=busy)
                if busy:
                    self._history.busy(provider.peer_id, trio.current_time())
                elif failure.blames_node:
                    self._history.failed(provider.peer_id, trio.current_time())
                    notes.failed.add(provider.peer_id)
                if isinstance(failure, RangeBeyondEnd) and failure.size is not None:
                    notes.size = failure.size
                self._observer.attempt_failed(provider, failure.kind, str(failure))

    async def _name_providers(self, key: Key, send: trio.MemorySendChannel[_Event], delay: float) -> None:
        await trio.sleep(delay)
        async with self._router.find_providers(key) as providers:
            async for provider in providers:
                await send.send(_Named(provider))
        await send.send(_Exhausted())

    async def _attempt(self, provider: Provider, wanted: Wanted, send: trio.MemorySendChannel[_Event]) -> None:
        started = trio.current_time()
        try:
            answer = await self._asker.ask(provider, wanted)
        except AttemptFailed as failure:
            await send.send(_Lost(provider, failure))
            return
        except NoRoom:
            await send.send(_Unread(provider))
            return
        event = _Won(answer, trio.current_time() - started)
        try:
            # Without a checkpoint in between: an answer is either in the channel or closed, never lost.
            send.send_nowait(event)
        except trio.WouldBlock:
            await close(answer)
            await send.send(_Lost(provider, AttemptFailed(FailureKind.TIMEOUT, "too many events at once")))


async def _close_answers(receive: trio.MemoryReceiveChannel[_Event]) -> None:
    while True:
        try:
            event = receive.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        if isinstance(event, _Won):
            await close(event.answer)
