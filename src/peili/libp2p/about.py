"""What one peer says of itself, over the life of its connection: asked for once, then corrected by its pushes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from peili.libp2p.errors import StreamError
from peili.libp2p.identify import IDENTIFY, MAX_MESSAGE, Identify, InvalidIdentify, parse_identify
from peili.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from peili.libp2p.connection import Connection
    from peili.libp2p.stream import Stream

IDENTIFY_TIMEOUT: Final = 10.0  # seconds for the peer to say who it is


class AboutPeer:
    """The answer to identify, or why there is none."""

    __slots__ = ("_answered", "_known", "_peer_id")

    def __init__(self, peer_id: PeerId) -> None:
        self._peer_id = peer_id
        self._known: Identify | str = "the peer did not identify itself yet"
        self._answered = trio.Event()

    async def wait(self) -> Identify:
        """Wait for the first answer, then return the current one at once. Raise StreamError where there is none."""
        await self._answered.wait()
        if isinstance(self._known, str):
            raise StreamError(self._known)
        return self._known

    async def ask(self, connection: Connection) -> None:
        """Ask the peer, once. Never raises for what it does."""
        try:
            with trio.fail_after(IDENTIFY_TIMEOUT):
                async with await connection.open_stream(IDENTIFY) as stream:
                    await self._take(stream)
            self._answered.set()
        except (StreamError, InvalidIdentify) as error:
            self.give_up(f"the peer does not identify itself: {error}")
        except trio.TooSlowError:
            self.give_up("the peer does not identify itself in time")

    async def take_push(self, stream: Stream) -> None:
        """The handler of identify/push: what changed."""
        with trio.fail_after(IDENTIFY_TIMEOUT):
            await self._answered.wait()
            await self._take(stream)

    def give_up(self, reason: str) -> None:
        """There will be no answer; one that there is stays."""
        if isinstance(self._known, str):
            self._known = reason
        self._answered.set()

    async def _take(self, stream: Stream) -> None:
        message = await stream.read_frame(MAX_MESSAGE)
        if message is None:
            raise StreamError("the peer ended the stream without a word")
        known = self._known
        self._known = parse_identify(message, Identify(self._peer_id) if isinstance(known, str) else known)
