"""What bad peers do to a host: it costs them their connection, and nobody else anything."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from peili.libp2p import host as host_module
from peili.libp2p.host import DialError, HostLimits
from peili.libp2p.multistream import HEADER, Proposer, encode_line
from peili.libp2p.ping import ping
from peili.libp2p.tls import TlsChannel
from peili.libp2p.upgrade import HANDSHAKE_TIMEOUT
from peili.libp2p.yamux import WINDOW

if TYPE_CHECKING:
    from tests.unit.libp2p.conftest import Net, Node, RawPeer

ECHO = "/test/echo/1.0.0"
OPEN = encode_line(HEADER) + encode_line("/tls/1.0.0")
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def drained(transport: trio.SocketStream) -> None:
    """Read until the host closes the connection."""
    try:
        while await transport.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass


async def works(net: Net, node: Node) -> None:
    friend = await net.host()
    connection = await net.connect(friend, node)
    assert await ping(connection) >= 0
    friend.stop.cancel()


@pytest.mark.parametrize(
    "wire",
    [
        b"\x00",
        b"GET / HTTP/1.1\r\nHost: a-mirror.example\r\nUser-Agent: somebody-with-curl/8.1\r\n\r\n",
        b"\x05\xff\xfe\xfd\xfc\n",
        os.urandom(5000),
        OPEN + b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        OPEN + b"garbage that is no record",
        OPEN + CLIENT_HELLO + os.urandom(600),
        encode_line(HEADER) + encode_line("/noise") * 100,
    ],
    ids=["empty line", "http", "the six bytes", "random", "long record", "no record", "broken hello", "proposals"],
)
async def test_garbage_before_authentication(net: Net, wire: bytes) -> None:
    node = await net.host()
    transport = await net.tcp(node)
    await transport.send_all(wire)
    with trio.fail_after(5):
        await drained(transport)
    await works(net, node)


@pytest.mark.parametrize("stage", range(4))
async def test_a_connection_reset_at_every_stage(net: Net, stage: int) -> None:
    node = await net.host()
    transport = await net.tcp(node)
    for part in (OPEN, CLIENT_HELLO, b"x")[:stage]:
        await transport.send_all(part)
    transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(transport)
    await works(net, node)


@pytest.mark.parametrize(
    "wire",
    [
        b"\xff" * 12,
        struct.pack(">BBHII", 0, 0, 1, 1, WINDOW + 1),
        struct.pack(">BBHII", 0, 0, 1, 1, 2**32 - 1) + b"x" * 100_000,
        struct.pack(">BBHII", 0, 1, 1, 2, 0),
        struct.pack(">BBHII", 0, 9, 0, 0, 0),
    ],
    ids=["no header", "over the window", "4 GiB", "our parity", "type"],
)
async def test_garbage_after_authentication(net: Net, wire: bytes) -> None:
    node = await net.host()
    peer = await net.raw_peer(node)
    await peer.send(wire)
    with trio.fail_after(5):
        await drained(peer.transport)
    await works(net, node)


async def frames_until(peer: RawPeer, wanted: bytes) -> bytes:
    """What the host sends, until these bytes are among it."""
    seen = b""
    with trio.fail_after(5):
        while wanted not in seen:
            plaintext = await peer.receive()
            assert plaintext, "the connection ended"
            seen += plaintext
    return seen


async def test_a_broken_rule_is_answered_with_a_farewell(net: Net) -> None:
    node = await net.host()
    peer = await net.raw_peer(node)
    await peer.send(struct.pack(">BBHII", 0, 9, 0, 0, 0))
    await frames_until(peer, struct.pack(">BBHII", 0, 3, 0, 0, 1))


async def test_a_refusal_is_not_overtaken_by_a_reset(net: Net) -> None:
    node = await net.host()
    peer = await net.raw_peer(node)
    stream = peer.yamux.open_stream()
    assert stream is not None
    peer.yamux.send(stream, memoryview(Proposer("/none").opening + b"\x0asent along"))
    await peer.send()
    seen = await frames_until(peer, struct.pack(">BBHII", 0, 1, 4, stream, 0))  # the end, not a reset
    assert encode_line("na") in seen


async def test_failed_handshakes_free_their_memory(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"made": 0, "closed": 0}
    init, close = TlsChannel.__init__, TlsChannel.close

    def count_init(self: TlsChannel, connection: SSL.Connection, *, server: bool) -> None:
        counts["made"] += 1
        init(self, connection, server=server)

    def count_close(self: TlsChannel) -> None:
        counts["closed"] += 1
        close(self)

    monkeypatch.setattr(TlsChannel, "__init__", count_init)
    monkeypatch.setattr(TlsChannel, "close", count_close)
    node = await net.host()
    for wire in (OPEN + b"garbage that is no record", OPEN + CLIENT_HELLO + bytes(600)):
        transport = await net.tcp(node)
        await transport.send_all(wire)
        await drained(transport)
    await trio.testing.wait_all_tasks_blocked()
    assert counts == {"made": 2, "closed": 2}


async def test_garbage_within_tls(net: Net) -> None:
    node = await net.host()
    peer = await net.raw_peer(node)
    await peer.transport.send_all(b"\x17\x03\x03\x00\x20" + os.urandom(32))
    with trio.fail_after(5):
        await drained(peer.transport)
    await works(net, node)


async def test_three_thousand_streams_at_once(net: Net) -> None:
    node = await net.host(limits=HostLimits(inbound_streams=100))
    peer = await net.raw_peer(node)
    for number in range(3000):
        await peer.send(struct.pack(">BBHII", 0, 1, 1, 2 * number + 1, 0))
    await trio.testing.wait_all_tasks_blocked()
    (connection,) = node.host.connections()
    assert connection.yamux.open_streams <= 128
    # The hoarder has all inbound streams of the host; once it is gone others are served.
    await connection.aclose()
    await works(net, node)


async def test_streams_that_speak_nonsense(net: Net) -> None:
    node = await net.host()
    peer = await net.raw_peer(node)
    nonsense = [b"\x00", b"\xff" * 20, Proposer("/none").opening, b"\x05\xff\xfe\xfd\xfc\n"]
    for number in range(20):
        stream = peer.yamux.open_stream()
        assert stream is not None
        peer.yamux.send(stream, memoryview(nonsense[number % 4]))
    await peer.send()
    await trio.testing.wait_all_tasks_blocked()
    (connection,) = node.host.connections()
    assert not connection.closed
    await works(net, node)


async def test_bytes_that_nobody_reads_cost_the_connection(net: Net) -> None:
    hold = trio.Event()

    async def never_read(stream: object) -> None:
        await hold.wait()

    node = await net.host(
        prepare=lambda host: host.set_handler("/hold", never_read), limits=HostLimits(unread_bytes=WINDOW)
    )
    peer = await net.raw_peer(node)
    with trio.fail_after(5), suppress(trio.BrokenResourceError):
        for _ in range(2):
            stream = peer.yamux.open_stream()
            assert stream is not None
            peer.yamux.send(stream, memoryview(Proposer("/hold").opening))
            for _ in range(7):
                peer.yamux.send(stream, memoryview(bytes(32_768)))
                await peer.send()
        await drained(peer.transport)
    await trio.testing.wait_all_tasks_blocked()
    assert node.host.connections() == ()
    await works(net, node)


async def test_sockets_that_say_nothing_are_capped_and_closed_in_time(
    net: Net, autojump_clock: trio.testing.MockClock
) -> None:
    node = await net.host(limits=HostLimits(unauthenticated=5, connections_per_address=8))
    started = trio.current_time()
    held = [await net.tcp(node) for _ in range(5)]
    await trio.testing.wait_all_tasks_blocked()
    sixth = await net.tcp(node)
    await drained(sixth)
    assert trio.current_time() == started
    for transport in held:
        await drained(transport)
    assert trio.current_time() - started == pytest.approx(HANDSHAKE_TIMEOUT)
    await works(net, node)


async def test_two_addresses_cannot_fill_the_handshakes(net: Net) -> None:
    node = await net.host()  # with the limits that it has in earnest
    share = HostLimits().unauthenticated_per_address
    assert 2 * share <= HostLimits().unauthenticated // 2
    for address in ("127.0.0.2", "127.0.0.3"):
        for number in range(2 * share):
            transport = await trio.open_tcp_stream("127.0.0.1", node.port, local_address=address)
            net.transports.append(transport)
            if number >= share:
                with trio.fail_after(5):
                    await drained(transport)
    await works(net, node)  # from 127.0.0.1, while both hold all that they can


async def test_one_byte_now_and_then_is_not_enough(net: Net, autojump_clock: trio.testing.MockClock) -> None:
    node = await net.host()
    transport = await net.tcp(node)

    async def drip() -> None:
        for byte in OPEN + CLIENT_HELLO:
            try:
                await transport.send_all(bytes([byte]))
            except trio.BrokenResourceError:
                return
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        await drained(transport)
    assert trio.current_time() <= HANDSHAKE_TIMEOUT + 1
    await works(net, node)


async def test_connections_of_one_address_are_capped(net: Net) -> None:
    node = await net.host(limits=HostLimits(connections_per_address=2))
    for _ in range(2):
        await net.connect(await net.host(), node)
    with pytest.raises(DialError):
        await net.connect(await net.host(), node)
    await node.host.connections()[0].aclose()
    await trio.testing.wait_all_tasks_blocked()
    await net.connect(await net.host(), node)


async def test_a_frozen_peer_is_closed_within_50_seconds(net: Net, autojump_clock: trio.testing.MockClock) -> None:
    node = await net.host()
    await net.raw_peer(node)
    await trio.testing.wait_all_tasks_blocked()
    (connection,) = node.host.connections()
    started = trio.current_time()
    await connection.wait_closed()
    assert 20 < trio.current_time() - started <= 50
    assert connection.reason == "the peer gave no sign of life"


async def test_a_live_peer_stays_for_hours(net: Net, autojump_clock: trio.testing.MockClock) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    await trio.sleep(3 * 3600)
    assert not connection.closed
    assert await ping(connection) >= 0


async def test_a_peer_that_does_not_answer_identify(net: Net, autojump_clock: trio.testing.MockClock) -> None:
    node = await net.host()
    await net.raw_peer(node)
    await trio.testing.wait_all_tasks_blocked()
    (connection,) = node.host.connections()
    with pytest.raises(host_module.StreamError, match="in time"):
        await connection.identify()


async def test_second_connections_are_given_up_once_unused(
    net: Net, autojump_clock: trio.testing.MockClock
) -> None:
    one, two = await net.host(), await net.host()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(net.connect, one, two)
        nursery.start_soon(net.connect, two, one)
    await trio.sleep(120)
    assert len(one.host.connections()) == len(two.host.connections()) == 1


async def test_an_idle_connection_makes_room(net: Net, autojump_clock: trio.testing.MockClock) -> None:
    node = await net.host(limits=HostLimits(connections=2))
    first = await net.host()
    await net.connect(first, node)
    await net.connect(await net.host(), node)
    await trio.sleep(60)
    await net.connect(await net.host(), node)
    await trio.testing.wait_all_tasks_blocked()
    assert len(node.host.connections()) == 2
    assert node.host.connection(first.host.peer_id) is None


async def test_a_dial_into_nothing_ends_in_time(net: Net, autojump_clock: trio.testing.MockClock) -> None:
    one = await net.host()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        started = trio.current_time()
        with pytest.raises(DialError, match="within 3 s"):
            await one.host.connect("127.0.0.1", listener.socket.getsockname()[1], None, 3)
        assert trio.current_time() - started == pytest.approx(3)


async def test_nothing_is_left_behind(make_net: type[Net]) -> None:
    async def visit() -> None:
        async with trio.open_nursery() as nursery:
            net = make_net(nursery)
            one, two = await net.host(), await net.host()
            for _ in range(5):
                connection = await net.connect(one, two)
                async with await connection.open_stream(ECHO) as stream:
                    await stream.write_frame(b"hello")
                    await stream.read_frame(10)
                await connection.aclose()
            for wire in (b"\x00", OPEN + b"garbage", OPEN + CLIENT_HELLO):
                await (await net.tcp(two)).send_all(wire)
            await net.raw_peer(two)
            await net.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert one.host.connections() == two.host.connections() == ()
            nursery.cancel_scope.cancel()

    await visit()
    before, tasks = descriptors(), trio.lowlevel.current_statistics().tasks_living
    await visit()
    assert descriptors() == before
    assert trio.lowlevel.current_statistics().tasks_living == tasks
