"""multistream-select 1.0 (multiformats/multistream-select), both sides, without I/O.

Each side reads from the caller's buffer and takes only its own lines from the front; what follows them belongs
to the protocol that was agreed on.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from peili.libp2p import varint
from peili.libp2p.errors import BrokenConnection, ProtocolNotSupported

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"
MAX_LINE: Final = 1024  # bytes, with the newline
MAX_PROPOSALS: Final = 16  # refused in one negotiation


class MultistreamError(BrokenConnection):
    """The peer does not speak multistream-select, or goes on for too long."""


def encode_line(text: str) -> bytes:
    """One line: a varint length that counts the newline, the text, the newline."""
    raw = text.encode() + b"\n"
    return varint.encode(len(raw)) + raw


def take_line(buffer: bytearray) -> str | None:
    """Take one line from the front of the buffer; None where it is not complete. Raise MultistreamError."""
    try:
        read = varint.decode(buffer)
    except varint.InvalidVarint as error:
        raise MultistreamError("a line whose length is no number") from error
    if read is None:
        return None
    length, start = read
    if not 0 < length <= MAX_LINE:
        raise MultistreamError(f"a line of {length} bytes")
    if len(buffer) < start + length:
        return None
    raw = bytes(buffer[start : start + length])
    if not raw.endswith(b"\n"):
        raise MultistreamError("a line without a newline")
    del buffer[: start + length]
    try:
        return raw[:-1].decode()
    except UnicodeDecodeError as error:
        raise MultistreamError("a line that is not UTF-8") from error


class Proposer:
    """The side that proposes one protocol, in one flight with the header and whatever follows."""

    __slots__ = ("_header_seen", "protocol")

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self._header_seen = False

    @property
    def opening(self) -> bytes:
        """What to send; nothing else needs to be waited for."""
        return encode_line(HEADER) + encode_line(self.protocol)

    def receive(self, buffer: bytearray) -> bool:
        """Take the peer's answer; whether it has accepted. Raise ProtocolNotSupported or MultistreamError."""
        if not self._header_seen:
            line = take_line(buffer)
            if line is None:
                return False
            if line != HEADER:
                raise MultistreamError(f"the peer opens with {line[:40]!r}")
            self._header_seen = True
        line = take_line(buffer)
        if line is None:
            return False
        if line == NOT_AVAILABLE:
            raise ProtocolNotSupported(f"the peer does not speak {self.protocol}")
        if line != self.protocol:
            raise MultistreamError(f"{line[:80]!r} is no answer to {self.protocol!r}")
        return True


class Responder:
    """The side that waits for a proposal which it supports."""

    __slots__ = ("_header_seen", "_refused", "_supported")

    def __init__(self, supported: Container[str]) -> None:
        self._supported = supported
        self._header_seen = False
        self._refused = 0

    @property
    def has_refused(self) -> bool:
        """Whether a proposal was refused already."""
        return self._refused > 0

    def receive(self, buffer: bytearray) -> tuple[bytes, str | None]:
        """Take the peer's lines up to an agreement: what to answer, and the protocol once agreed on.

        An empty answer means that more bytes are needed. Raise MultistreamError, but only once everything that
        came before is answered. `ls` is refused as every unknown protocol is.
        """
        answer = b""
        try:
            while (line := take_line(buffer)) is not None:
                answer += self._answer(line)
                if line in self._supported and line != HEADER:
                    return answer, line
        except MultistreamError:
            if not answer or self._refused > MAX_PROPOSALS:
                raise
        return answer, None

    def _answer(self, line: str) -> bytes:
        if not self._header_seen:
            if line != HEADER:
                raise MultistreamError(f"the peer opens with {line[:40]!r}")
            self._header_seen = True
        elif line not in self._supported:
            self._refused += 1
            if self._refused > MAX_PROPOSALS:
                raise MultistreamError(f"more than {MAX_PROPOSALS} proposals that we do not speak")
            return encode_line(NOT_AVAILABLE)
        return encode_line(line)
