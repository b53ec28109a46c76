"""yamux, played as a script: frames in, events and frames out."""

from __future__ import annotations

import struct

import pytest

from peili.libp2p.yamux import (
    MAX_LINGERING,
    MAX_OUTBOX,
    MAX_STREAMS,
    OUTBOX,
    WINDOW,
    Data,
    Finished,
    GoneAway,
    Opened,
    Reset,
    WindowGrown,
    Yamux,
    YamuxError,
)  # fmt: skip

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(
    kind: int, flags: int = 0, stream: int = 0, length: int = 0, body: bytes = b"", version: int = 0
) -> bytes:
    return struct.pack(">BBHII", version, kind, flags, stream, length or len(body)) + body


def server_with_stream() -> Yamux:
    yamux = Yamux(client=False)
    assert yamux.receive(frame(UPDATE, SYN, 1)) == [Opened(1)]
    yamux.take_output()
    return yamux


def test_a_stream_from_its_start_to_its_end() -> None:
    client, server = Yamux(client=True), Yamux(client=False)
    stream = client.open_stream()
    assert stream == 1
    assert client.send(1, memoryview(b"hello")) == 5
    client.end(1)
    assert server.receive(client.take_output()) == [Opened(1), Data(1, b"hello"), Finished(1)]
    assert server.take_output() == frame(UPDATE, ACK, 1)
    server.send(1, memoryview(b"hi"))
    server.end(1)
    assert client.receive(server.take_output()) == [Data(1, b"hi"), Finished(1)]
    assert client.open_streams == server.open_streams == 0


def test_ids_are_odd_for_the_dialer_and_even_for_the_other() -> None:
    client, server = Yamux(client=True), Yamux(client=False)
    assert [client.open_stream(), client.open_stream()] == [1, 3]
    assert [server.open_stream(), server.open_stream()] == [2, 4]


def test_frames_may_come_in_any_pieces() -> None:
    whole = frame(DATA, SYN, 1, body=b"hello") + frame(DATA, FIN, 1, body=b"!")
    server = Yamux(client=False)
    events = [event for byte in whole for event in server.receive(bytes([byte]))]
    assert events[0] == Opened(1)
    assert b"".join(event.data for event in events if isinstance(event, Data)) == b"hello!"
    assert events[-1] == Finished(1)


def test_our_sending_stops_at_the_window_of_the_peer() -> None:
    client = Yamux(client=True)
    client.open_stream()
    sent = 0
    for _ in range(10):
        sent += client.send(1, memoryview(bytes(100_000)))
        client.take_output()
    assert sent == WINDOW
    assert client.receive(frame(UPDATE, 0, 1, length=10)) == [WindowGrown(1)]
    assert client.send(1, memoryview(bytes(100))) == 10


def test_the_outbox_is_bounded() -> None:
    client = Yamux(client=True)
    client.open_stream()
    assert client.send(1, memoryview(bytes(WINDOW))) <= OUTBOX
    assert client.send(1, memoryview(b"x")) == 0
    client.take_output()
    assert client.send(1, memoryview(b"x")) == 1


def test_room_is_given_back_in_halves_of_the_window() -> None:
    yamux = server_with_stream()
    yamux.receive(frame(DATA, 0, 1, body=bytes(WINDOW)))
    yamux.consumed(1, WINDOW // 2 - 1)
    assert not yamux.has_output
    yamux.consumed(1, 1)
    assert yamux.take_output() == frame(UPDATE, 0, 1, length=WINDOW // 2)
    yamux.receive(frame(DATA, 0, 1, body=bytes(WINDOW // 2)))
    with pytest.raises(YamuxError, match="window"):
        yamux.receive(frame(DATA, 0, 1, body=b"x"))


def test_pings_are_answered_and_farewells_reported() -> None:
    yamux = Yamux(client=False)
    assert yamux.receive(frame(PING, SYN, 0, length=77)) == []
    assert yamux.take_output() == frame(PING, ACK, 0, length=77)
    assert yamux.receive(frame(PING, ACK, 0, length=77)) == []
    assert not yamux.has_output
    assert yamux.receive(frame(GO_AWAY, 0, 0, length=1)) == [GoneAway(1)]


def test_a_reset_ends_both_directions_and_late_data_is_skipped() -> None:
    yamux = server_with_stream()
    yamux.reset(1)
    assert yamux.take_output() == frame(UPDATE, RST, 1)
    assert yamux.receive(frame(DATA, 0, 1, body=b"late") + frame(UPDATE, FIN, 1)) == []
    other = server_with_stream()
    assert other.receive(frame(UPDATE, RST, 1)) == [Reset(1)]
    assert other.send(1, memoryview(b"x")) == 0
    assert other.open_streams == 0


def test_streams_beyond_the_limit_are_reset() -> None:
    yamux = Yamux(client=False)
    for number in range(MAX_STREAMS):
        yamux.receive(frame(UPDATE, SYN, 2 * number + 1))
    yamux.take_output()
    assert yamux.receive(frame(DATA, SYN, 9999, body=b"x")) == []
    assert yamux.take_output() == frame(UPDATE, RST, 9999)
    client = Yamux(client=True)
    assert all(client.open_stream() for _ in range(MAX_STREAMS))
    assert client.open_stream() is None


def test_abandoned_streams_linger_until_the_peer_ends_them_or_there_are_too_many() -> None:
    yamux = Yamux(client=True)
    for _ in range(MAX_LINGERING):
        stream = yamux.open_stream()
        assert stream is not None
        yamux.abandon(stream)
    assert yamux.receive(frame(DATA, FIN, 3, body=b"not read")) == []
    assert yamux.open_streams == MAX_LINGERING - 1
    yamux.take_output()
    for _ in range(2):
        stream = yamux.open_stream()
        assert stream is not None
        yamux.abandon(stream)
    assert yamux.open_streams == MAX_LINGERING
    assert frame(UPDATE, RST, 1) in yamux.take_output()


def test_a_peer_that_asks_and_never_reads_is_given_up() -> None:
    yamux = Yamux(client=False)
    pings = frame(PING, SYN, 0, length=1) * (MAX_OUTBOX // 12)
    yamux.receive(pings)
    with pytest.raises(YamuxError, match="reads"):
        yamux.receive(pings)


@pytest.mark.parametrize(
    "wire",
    [
        frame(DATA, 0, 1, body=b"x", version=1),
        frame(4),
        frame(DATA, 0, 0),
        frame(UPDATE, SYN, 0),
        frame(UPDATE, SYN, 2),
        frame(UPDATE, SYN, 1),
        frame(PING, SYN, 1),
        frame(GO_AWAY, 0, 1),
        frame(DATA, 0, 1, length=WINDOW + 1),
        frame(DATA, 0, 77, length=WINDOW + 1),
        frame(DATA, 0, 1, length=2**32 - 1),
        frame(UPDATE, 0, 1, length=2**32 - 1),
        frame(UPDATE, FIN, 1) + frame(DATA, 0, 1, body=b"x"),
    ],
    ids=["version", "type", "data on 0", "open 0", "our parity", "open twice", "ping on a stream",
         "farewell on a stream", "over the window", "over any window",
          "4 GiB", "window overflow", "data after the end"],
)  # fmt: skip
def test_what_ends_the_connection(wire: bytes) -> None:
    with pytest.raises(YamuxError):
        server_with_stream().receive(wire)
