"""A bell that can be rung again and again."""

from __future__ import annotations

import trio


class Signal:
    """One task waits; rings that come while it does not are remembered as one."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake the waiting task, or let the next wait end at once."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for a ring since the last wait ended."""
        await self._event.wait()
        self._event = trio.Event()
