"""A lookup whose answer is known at once: what the routers without a network yield."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from peili.routing.protocol import Provider


class ListedProviders:
    """An async iterator over providers that are already known; it holds nothing that could leak."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._remaining = iter(tuple(providers))

    def __aiter__(self) -> ListedProviders:
        return self

    async def __anext__(self) -> Provider:
        await trio.lowlevel.checkpoint()
        for provider in self._remaining:
            return provider
        raise StopAsyncIteration

    async def __aenter__(self) -> ListedProviders:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *error: object) -> None:
        await trio.lowlevel.checkpoint()
