"""Inbound streams: agree on a protocol with the peer that opened one, and let its handler go on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from peili.libp2p.channel import Channel
from peili.libp2p.errors import Libp2pError, ProtocolNotSupported, StreamError
from peili.libp2p.multistream import MultistreamError, Responder
from peili.libp2p.stream import Stream

if TYPE_CHECKING:
    from peili.libp2p.connection import Connection

NEGOTIATION_TIMEOUT: Final = 10.0  # seconds for the peer to agree on a stream's protocol

StreamHandler = Callable[[Stream], Awaitable[None]]
_log = logging.getLogger(__name__)


async def serve(connection: Connection, channel: Channel, handlers: Mapping[str, StreamHandler]) -> None:
    """Serve one stream to its end. Whatever goes wrong ends here, and costs this stream only."""
    protocol = "no protocol yet"
    try:
        with trio.fail_after(NEGOTIATION_TIMEOUT):
            protocol = await _agree(channel, handlers)
        await handlers[protocol](Stream(connection, channel, protocol, outbound=False))
        channel.abandon()
    except ProtocolNotSupported:
        channel.abandon()  # not a reset, which would overtake our refusal
    except (Libp2pError, trio.TooSlowError) as error:
        _log.debug("a stream of %s for %s ended: %s", connection.peer_id, protocol, error)
    except Exception:  # noqa: BLE001 - a handler's mistake must cost one stream and not the connection
        _log.exception("the handler of %s failed for %s", protocol, connection.peer_id)
    finally:
        channel.reset("the stream was reset")


async def _agree(channel: Channel, handlers: Mapping[str, StreamHandler]) -> str:
    responder = Responder(handlers)
    while True:
        before = len(channel.buffer)
        try:
            answer, agreed = responder.receive(channel.buffer)
        except MultistreamError as error:
            # After a refusal this is what the peer sent along with its proposal, for a protocol we do not speak.
            kind = ProtocolNotSupported if responder.has_refused else StreamError
            raise kind(str(error)) from error
        finally:
            channel.taken(before - len(channel.buffer))
        if answer:
            await channel.write(answer)
        if agreed is not None:
            return agreed
        if not answer and not await channel.wait_readable():
            raise StreamError("the peer ended the stream before it named a protocol")
