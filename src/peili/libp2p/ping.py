"""Ping (libp2p/specs, ping): 32 bytes there, the same 32 bytes back."""

from __future__ import annotations

import secrets
from typing import Final

import trio

from peili.libp2p.connection import Connection
from peili.libp2p.errors import StreamError
from peili.libp2p.stream import Stream

PING: Final = "/ipfs/ping/1.0.0"
PAYLOAD: Final = 32  # bytes
IDLE_TIMEOUT: Final = 60.0  # seconds between two pings on one stream


async def answer_pings(stream: Stream) -> None:
    """Send back what comes, until the peer has enough or says nothing for a minute."""
    while True:
        with trio.move_on_after(IDLE_TIMEOUT):
            payload = await stream.read_exactly(PAYLOAD)
            if payload is not None:
                await stream.write(payload)
                continue
        return


async def ping(connection: Connection) -> float:
    """Seconds that the peer takes to answer. The caller limits the time. Raise StreamError."""
    payload = secrets.token_bytes(PAYLOAD)
    async with await connection.open_stream(PING) as stream:
        started = trio.current_time()
        await stream.write(payload)
        if await stream.read_exactly(PAYLOAD) != payload:
            raise StreamError("the peer answers a ping with something else")
        return trio.current_time() - started
