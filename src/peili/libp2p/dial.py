"""Dials that are under way, shared by everybody who wants the same peer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Final

import trio

from peili.libp2p.errors import DialError

if TYPE_CHECKING:
    from peili.libp2p.connection import Connection

MAX_DIALS: Final = 32  # at the same time; more wait, within their own time

DialFunction = Callable[[], Awaitable["Connection"]]


class _Dial:
    """One dial under way. It lives as long as somebody waits for it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.waiting = 0
        self.result: Connection | DialError = DialError("the host was stopped")


class Dials:
    """Runs dials in the host's nursery, at most one for each key at a time."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Dial] = {}
        self._slots = trio.Semaphore(MAX_DIALS)

    async def share(
        self, nursery: trio.Nursery, key: Hashable, address: tuple[str, int], function: DialFunction
    ) -> Connection:
        """The connection that a dial for this key makes: one that is under way, or a new one to this address.

        Where the dial of somebody else fails that went to another address, try ours. Raise DialError.
        """
        while True:
            dial = self._under_way.get(key)
            ours = dial is None
            if dial is None:
                dial = self._under_way[key] = _Dial(address)
                nursery.start_soon(self._run, key, dial, function)
            result = await self._wait(key, dial)
            if not isinstance(result, DialError):
                return result
            if ours or dial.address == address:
                raise result

    async def _wait(self, key: Hashable, dial: _Dial) -> Connection | DialError:
        dial.waiting += 1
        try:
            await dial.done.wait()
        finally:
            dial.waiting -= 1
            if not dial.waiting and not dial.done.is_set():
                dial.scope.cancel()
                self._forget(key, dial)
        return dial.result

    async def _run(self, key: Hashable, dial: _Dial, function: DialFunction) -> None:
        try:
            with dial.scope:
                async with self._slots:
                    dial.result = await function()
        except DialError as error:
            dial.result = error
        finally:
            self._forget(key, dial)
            dial.done.set()

    def _forget(self, key: Hashable, dial: _Dial) -> None:
        if self._under_way.get(key) is dial:
            del self._under_way[key]
