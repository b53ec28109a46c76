"""From a fresh TCP connection to an authenticated one with a muxer (libp2p/specs, connections)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from peili.libp2p.certificate import VerifiedCertificate, verify_certificate
from peili.libp2p.errors import BrokenConnection, ProtocolNotSupported
from peili.libp2p.multistream import Proposer, Responder
from peili.libp2p.tls import TlsChannel, TlsContexts, TlsError

TLS: Final = "/tls/1.0.0"
YAMUX: Final = "/yamux/1.0.0"
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds for everything in this file
_READ: Final = 8 * 1024  # bytes at a time


@dataclass(frozen=True, slots=True)
class Secured:
    """What comes out: the TLS channel, who the peer is, and the first bytes of the muxer that came along."""

    tls: TlsChannel
    certificate: VerifiedCertificate
    leftover: bytes


async def upgrade(transport: trio.abc.Stream, contexts: TlsContexts, *, outbound: bool) -> Secured:
    """Agree on TLS, authenticate the peer, agree on yamux. The caller limits the time and closes the transport.

    Raise BrokenConnection for whatever the peer does.
    """
    tls: TlsChannel | None = None
    try:
        leftover = await _agree(_Plain(transport), TLS, outbound=outbound)
        tls = contexts.client() if outbound else contexts.server()
        certificate = await _authenticate(transport, tls, bytes(leftover))
        leftover = await _agree(_Encrypted(transport, tls), YAMUX, outbound=outbound)
        return Secured(tls, certificate, bytes(leftover))
    except BaseException as error:
        if tls is not None:
            tls.close()
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
            raise BrokenConnection("the peer went away during the handshake") from error
        if isinstance(error, ProtocolNotSupported):
            raise BrokenConnection(str(error)) from error
        raise


async def _authenticate(transport: trio.abc.Stream, tls: TlsChannel, data: bytes) -> VerifiedCertificate:
    try:
        done = tls.handshake(data)
        while not done:
            if tls.has_output:
                await transport.send_all(tls.take_output())
            done = tls.handshake(await _receive(transport))
        # Before our last flight goes out: a peer that is refused must not believe that it was taken.
        certificate = verify_certificate(tls.peer_certificate(), datetime.now(UTC))
    except TlsError:
        if tls.has_output:
            await transport.send_all(tls.take_output())  # the alert says why
        raise
    if tls.has_output:
        await transport.send_all(tls.take_output())
    return certificate


class _Plain:
    """Bytes before TLS."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport

    async def send(self, data: bytes) -> None:
        await self._transport.send_all(data)

    async def receive(self) -> bytes:
        return await _receive(self._transport)


class _Encrypted:
    """Bytes within TLS. The peer's last flight may have brought some already, so reading starts with those."""

    def __init__(self, transport: trio.abc.Stream, tls: TlsChannel) -> None:
        self._transport, self._tls = transport, tls
        self._started = False

    async def send(self, data: bytes) -> None:
        self._tls.encrypt(data)
        await self._transport.send_all(self._tls.take_output())

    async def receive(self) -> bytes:
        plaintext = b"" if self._started else self._tls.decrypt(b"")
        self._started = True
        while not plaintext:
            plaintext = self._tls.decrypt(await _receive(self._transport))
        return plaintext


async def _agree(pipe: _Plain | _Encrypted, protocol: str, *, outbound: bool) -> bytearray:
    """Agree on this one protocol; what came after the agreement."""
    buffer = bytearray()
    if outbound:
        proposer = Proposer(protocol)
        await pipe.send(proposer.opening)
        while not proposer.receive(buffer):
            buffer += await pipe.receive()
        return buffer
    responder = Responder((protocol,))
    while True:
        buffer += await pipe.receive()
        answer, agreed = responder.receive(buffer)
        if answer:
            await pipe.send(answer)
        if agreed is not None:
            return buffer


async def _receive(transport: trio.abc.Stream) -> bytes:
    data = await transport.receive_some(_READ)
    if not data:
        raise BrokenConnection("the peer closed the connection during the handshake")
    return bytes(data)
