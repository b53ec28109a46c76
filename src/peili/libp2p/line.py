"""The encrypted line below a connection: plaintext in and out, ciphertext through its socket.

Small messages are most of what a node says, so they go out without a turn of the event loop: what the socket takes
at once is sent at once, and only the rest needs the connection's writer.
"""

from __future__ import annotations

import os
from typing import Final

import trio

from peili.libp2p.errors import BrokenConnection
from peili.libp2p.tls import TlsChannel

READ_CHUNK: Final = 32 * 1024  # bytes


class Line:
    """One task may receive and one send; anybody may `send_now` while it is free."""

    __slots__ = ("_sending", "_stream", "_tls", "_unsent")

    def __init__(self, stream: trio.SocketStream, tls: TlsChannel) -> None:
        self._stream = stream
        self._tls = tls
        self._sending = False
        self._unsent = b""  # what the socket did not take at once

    @property
    def has_output(self) -> bool:
        """Whether something is to be sent, beyond what the caller has."""
        return bool(self._unsent) or self._tls.has_output

    @property
    def is_free(self) -> bool:
        """Whether `send_now` may be called: nothing is being sent, and nothing waits for the socket."""
        return not self._sending and not self._unsent

    async def receive(self) -> bytes:
        """Wait for bytes of the peer; the plaintext in them, perhaps none. Raise BrokenConnection.

        Lets others run first, in any case.
        """
        data = await self._read()
        if not data:
            raise BrokenConnection("the peer closed the connection")
        return self._tls.decrypt(data)

    def decrypt_rest(self) -> bytes:
        """The plaintext of what came with the end of the handshake."""
        return self._tls.decrypt(b"")

    def send_now(self, plaintext: bytes) -> bool:
        """Send this without waiting; False where `send` is needed for the rest. Raise TlsError."""
        if plaintext:
            self._tls.encrypt(plaintext)
        data = self._tls.take_output()
        if not data:
            return True
        try:
            sent = os.write(self._stream.socket.fileno(), data)
        except OSError:  # full, or broken: `send` finds out
            sent = 0
        self._unsent = data[sent:]
        return not self._unsent

    async def send(self, plaintext: bytes) -> None:
        """Send this, and what waits. Raise TlsError; trio.BrokenResourceError, trio.ClosedResourceError.

        Once it has failed or was cancelled, nothing else can be sent: half a record is on its way.
        """
        if plaintext:
            self._tls.encrypt(plaintext)
        data, self._unsent = self._unsent + self._tls.take_output(), b""
        self._sending = True
        await self._stream.send_all(data)
        self._sending = False

    async def say_goodbye(self, plaintext: bytes) -> None:
        """The last words, where they can be said; raise as `send`."""
        if not self.is_free:
            return  # anything after half a record would be garbage
        self._tls.encrypt(plaintext)
        self._tls.say_goodbye()
        await self.send(b"")

    async def aclose(self) -> None:
        """Close the socket, and give back memory."""
        self._tls.close()
        await trio.aclose_forcefully(self._stream)

    async def _read(self) -> bytes:
        sock = self._stream.socket
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return os.read(sock.fileno(), READ_CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise BrokenConnection("the peer went away") from error
