"""yamux (hashicorp/yamux, spec.md), as libp2p uses it: many streams over one connection, without I/O.

Bytes of the peer go in by `receive` and come back as events; what is to be sent gathers in a bounded outbox that
the driver empties with `take_output`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from peili.libp2p.errors import BrokenConnection

WINDOW: Final = 256 * 1024  # bytes that the peer of a new stream may send, in both directions
MAX_STREAMS: Final = 128  # open at the same time in each direction
MAX_LINGERING: Final = 32  # streams that we ended and the peer did not
MAX_PAYLOAD: Final = 32 * 1024  # bytes of data in a frame that we send, so that streams share the line
OUTBOX: Final = 128 * 1024  # bytes to be sent, beyond which `send` takes nothing
MAX_OUTBOX: Final = 512 * 1024  # with answers to the peer's frames; a peer that makes us exceed it does not read
_MAX_SEND_WINDOW: Final = 2**32 - 1

_HEADER: Final = struct.Struct(">BBHII")  # version, type, flags, stream id, length
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8

GO_AWAY_NORMAL: Final = 0
GO_AWAY_PROTOCOL_ERROR: Final = 1


class YamuxError(BrokenConnection):
    """The peer broke the protocol; the connection must end."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream; it is acknowledged already."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; `consumed` gives their room back to the peer."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The peer ended its side of a stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer gave up on a stream, in both directions."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WindowGrown:
    """`send` takes more bytes of this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer takes no more streams."""

    code: int


Event = Opened | Data | Finished | Reset | WindowGrown | GoneAway


class _Stream:
    __slots__ = ("abandoned", "consumed", "local_ended", "receive_window", "remote_ended", "send_window")

    def __init__(self) -> None:
        self.receive_window = self.send_window = WINDOW
        self.consumed = 0  # bytes read by our side and not given back to the peer yet
        self.local_ended = self.remote_ended = self.abandoned = False


class Yamux:
    """One side of a session. The dialer's streams have odd ids, the other's even ones."""

    def __init__(self, *, client: bool) -> None:
        self._parity = 1 if client else 0
        self._next_id = 1 if client else 2
        self._streams: dict[int, _Stream] = {}
        self._lingering: dict[int, None] = {}  # abandoned streams, oldest first
        self._counts = [0, 0]  # open streams by parity of their id
        self._outbox = bytearray()
        self._header = bytearray()  # the start of a frame's header
        self._body_left = 0
        self._body_id = self._body_flags = 0
        self._leaving = False

    # What the driver asks for

    def open_stream(self) -> int | None:
        """The id of a new stream; None where there are too many or the ids are used up."""
        stream_id = self._next_id
        if self._counts[self._parity] >= MAX_STREAMS or stream_id > _MAX_SEND_WINDOW or self._leaving:
            return None
        self._next_id += 2
        self._add(stream_id)
        self._frame(_WINDOW_UPDATE, _SYN, stream_id, 0)
        return stream_id

    def send(self, stream_id: int, data: memoryview, outbox: int = OUTBOX) -> int:
        """Take as much of this data as window and outbox allow; the number of bytes taken."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return 0
        taken = 0
        while (count := min(len(data) - taken, MAX_PAYLOAD, stream.send_window, outbox - len(self._outbox))) > 0:
            self._frame(_DATA, 0, stream_id, count)
            self._outbox += data[taken : taken + count]
            stream.send_window -= count
            taken += count
        return taken

    def consumed(self, stream_id: int, count: int) -> None:
        """So many bytes of a stream were read: tell the peer once it is half a window."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_ended or stream.abandoned:
            return
        stream.consumed += count
        if stream.consumed >= WINDOW // 2:
            self._frame(_WINDOW_UPDATE, 0, stream_id, stream.consumed)
            stream.receive_window += stream.consumed
            stream.consumed = 0

    def end(self, stream_id: int) -> None:
        """End our side of a stream."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return
        stream.local_ended = True
        self._frame(_WINDOW_UPDATE, _FIN, stream_id, 0)
        self._drop_if_ended(stream_id, stream)

    def abandon(self, stream_id: int) -> None:
        """End our side and forget what still comes; of too many such streams the oldest are reset."""
        self.end(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None or stream.abandoned:
            return
        stream.abandoned = True
        self._lingering[stream_id] = None
        if len(self._lingering) > MAX_LINGERING:
            self.reset(next(iter(self._lingering)))

    def reset(self, stream_id: int) -> None:
        """Give up on a stream in both directions."""
        if stream_id in self._streams:
            self._frame(_WINDOW_UPDATE, _RST, stream_id, 0)
            self._remove(stream_id)

    def ping(self, value: int) -> None:
        """Ask the peer for a sign of life; whatever it sends is one."""
        self._frame(_PING, _SYN, 0, value)

    def go_away(self, code: int = GO_AWAY_NORMAL) -> None:
        """Ask the peer to open no more streams; those that were on their way are taken still."""
        if not self._leaving:
            self._leaving = True
            self._frame(_GO_AWAY, 0, 0, code)

    def take_output(self) -> bytes:
        """Everything that is to be sent now."""
        output, self._outbox = bytes(self._outbox), bytearray()
        return output

    @property
    def has_output(self) -> bool:
        """Whether `take_output` has something."""
        return bool(self._outbox)

    @property
    def open_streams(self) -> int:
        """Streams that did not end in both directions."""
        return len(self._streams)

    # What the peer sends

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes mean, in order. Raise YamuxError."""
        events: list[Event] = []
        view, offset = memoryview(data), 0
        while offset < len(view):
            if self._body_left:
                count = min(self._body_left, len(view) - offset)
                self._on_body(view[offset : offset + count], events)
                offset += count
                continue
            count = min(_HEADER.size - len(self._header), len(view) - offset)
            self._header += view[offset : offset + count]
            offset += count
            if len(self._header) == _HEADER.size:
                version, kind, flags, stream_id, length = _HEADER.unpack(self._header)
                self._header.clear()
                self._on_header(version, kind, flags, stream_id, length, events)
        if len(self._outbox) > MAX_OUTBOX:
            raise YamuxError("the peer asks for more answers than it reads")
        return events

    def _on_header(
        self, version: int, kind: int, flags: int, stream_id: int, length: int, events: list[Event]
    ) -> None:
        if version:
            raise YamuxError(f"a frame of version {version}")
        if kind in (_DATA, _WINDOW_UPDATE):
            self._on_stream_header(kind, flags, stream_id, length, events)
        elif stream_id:
            raise YamuxError("a ping or a farewell on a stream")
        elif kind == _PING:
            if flags & _SYN:
                self._frame(_PING, _ACK, 0, length)
        elif kind == _GO_AWAY:
            events.append(GoneAway(length))
        else:
            raise YamuxError(f"a frame of type {kind}")

    def _on_stream_header(self, kind: int, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        if flags & _SYN:
            self._on_open(stream_id, events)
        elif not stream_id:
            raise YamuxError("data for the stream 0")
        stream = self._streams.get(stream_id)  # None: ended or reset while this frame was on its way
        if kind == _WINDOW_UPDATE:
            if stream is not None and length:
                stream.send_window += length
                if stream.send_window > _MAX_SEND_WINDOW:
                    raise YamuxError("a window of more than 32 bits")
                events.append(WindowGrown(stream_id))
            self._on_end(flags, stream_id, events)
            return
        # Nobody was ever given more than a window, so a longer frame is wrong on streams that are gone as well.
        if length > (WINDOW if stream is None else stream.receive_window):
            raise YamuxError("the peer sends more than its window")
        if stream is not None:
            if stream.remote_ended and length:
                raise YamuxError("data after the end of a stream")
            stream.receive_window -= length
        self._body_left, self._body_id, self._body_flags = length, stream_id, flags
        if not length:
            self._on_end(flags, stream_id, events)

    def _on_open(self, stream_id: int, events: list[Event]) -> None:
        if not stream_id or stream_id & 1 == self._parity:
            raise YamuxError(f"the peer opens a stream with the id {stream_id}, which is ours to use")
        if stream_id in self._streams:
            raise YamuxError("the peer opens a stream twice")
        if self._counts[stream_id & 1] >= MAX_STREAMS:
            self._frame(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._add(stream_id)
        self._frame(_WINDOW_UPDATE, _ACK, stream_id, 0)
        events.append(Opened(stream_id))

    def _on_body(self, part: memoryview, events: list[Event]) -> None:
        self._body_left -= len(part)
        stream = self._streams.get(self._body_id)
        if stream is not None and not stream.abandoned:
            events.append(Data(self._body_id, bytes(part)))
        if not self._body_left:
            self._on_end(self._body_flags, self._body_id, events)

    def _on_end(self, flags: int, stream_id: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if flags & _RST:
            self._remove(stream_id)
            events.append(Reset(stream_id))
        elif flags & _FIN and not stream.remote_ended:
            stream.remote_ended = True
            if not stream.abandoned:
                events.append(Finished(stream_id))
            self._drop_if_ended(stream_id, stream)

    def _add(self, stream_id: int) -> None:
        self._streams[stream_id] = _Stream()
        self._counts[stream_id & 1] += 1

    def _remove(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._lingering.pop(stream_id, None)
        self._counts[stream_id & 1] -= 1

    def _drop_if_ended(self, stream_id: int, stream: _Stream) -> None:
        if stream.local_ended and stream.remote_ended:
            self._remove(stream_id)

    def _frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._outbox += _HEADER.pack(0, kind, flags, stream_id, length)
