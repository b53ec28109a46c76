"""Two hosts on real sockets: what users of the wire rely on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from peili.libp2p.host import (
    Connection,
    DialError,
    Host,
    HostLimits,
    ProtocolNotSupported,
    SelfDial,
    Stream,
    StreamError,
)
from peili.libp2p.identity import Identity
from peili.libp2p.ping import ping
from peili.libp2p.yamux import WINDOW

if TYPE_CHECKING:
    from tests.unit.libp2p.conftest import Net

ECHO = "/test/echo/1.0.0"
LIMIT = 4 * 1024 * 1024


async def test_a_thousand_frames_on_one_stream(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    async with await connection.open_stream(ECHO) as stream:
        for number in range(1000):
            await stream.write_frame(b"%d" % number)
            assert await stream.read_frame(100) == b"%d" % number
        await stream.close_write()
        assert await stream.read_frame(100) is None


async def test_frames_of_every_size_also_above_the_window(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    async with await connection.open_stream(ECHO) as stream:
        for size in (0, 1, 127, 128, 16_384, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW):
            frame = random.Random(size).randbytes(size)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.write_frame, frame)
                assert await stream.read_frame(LIMIT) == frame


async def test_many_streams_at_once_in_both_directions(net: Net) -> None:
    one, two = await net.host(), await net.host()
    there = await net.connect(one, two)
    await there.identify()
    back = two.host.connection(one.host.peer_id)
    assert back is not None

    async def talk(connection: Connection, number: int) -> None:
        async with await connection.open_stream(ECHO) as stream:
            for size in (10, 5_000, 60_000):
                frame = bytes([number]) * size
                await stream.write_frame(frame)
                assert await stream.read_frame(LIMIT) == frame

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(talk, there, number)
            nursery.start_soon(talk, back, number)


async def test_a_slow_reader_stops_the_writer_and_nobody_else(net: Net) -> None:
    started, go_on, sizes = trio.Event(), trio.Event(), []

    async def slow(stream: Stream) -> None:
        started.set()
        await go_on.wait()
        while (frame := await stream.read_frame(LIMIT)) is not None:
            sizes.append(len(frame))

    one, two = await net.host(), await net.host(prepare=lambda host: host.set_handler("/slow", slow))
    connection = await net.connect(one, two)
    written = 0

    async def flood() -> None:
        nonlocal written
        async with await connection.open_stream("/slow") as stream:
            for _ in range(64):
                await stream.write_frame(b"x" * 32_768)
                written += 32_768
            await stream.close_write()
            assert await stream.read_frame(1) is None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await started.wait()
        async with await connection.open_stream(ECHO) as stream:
            for _ in range(50):
                await stream.write_frame(b"still there")
                assert await stream.read_frame(100) == b"still there"
        assert 0 < written <= WINDOW
        go_on.set()
    assert sum(sizes) == written == 64 * 32_768


async def test_a_cancelled_user_resets_its_stream_and_no_other(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    answers = 0

    async def request(number: int) -> None:
        nonlocal answers
        async with await connection.open_stream(ECHO) as stream:
            with trio.CancelScope() as scope:
                if number % 6 == 0:
                    scope.cancel()
                await stream.write_frame(b"x" * 100_000)
                assert await stream.read_frame(LIMIT) == b"x" * 100_000
                answers += 1
            if scope.cancelled_caught:
                with pytest.raises(StreamError):
                    await stream.read_frame(LIMIT)

    async with trio.open_nursery() as nursery:
        for number in range(120):
            nursery.start_soon(request, number)
    assert answers == 100
    assert not connection.closed


async def test_a_writer_cancelled_within_a_frame_cuts_no_frame_of_others(net: Net) -> None:
    hold = trio.Event()

    async def never_read(stream: Stream) -> None:
        await hold.wait()

    one, two = await net.host(), await net.host(prepare=lambda host: host.set_handler("/hold", never_read))
    connection = await net.connect(one, two)
    stuck = await connection.open_stream("/hold")
    with trio.move_on_after(0.05) as scope:
        await stuck.write_frame(b"x" * (WINDOW * 2))
    assert scope.cancelled_caught
    with pytest.raises(StreamError):
        await stuck.write_frame(b"more")
    assert await ping(connection) >= 0
    hold.set()


async def test_a_cancelled_reader_resets_its_stream(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    stream = await connection.open_stream(ECHO)
    await stream.write_frame(b"asked")
    assert await stream.read_frame(10) == b"asked"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.read_frame, 10)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with pytest.raises(StreamError, match="cancelled"):
        await stream.write_frame(b"more")
    assert await ping(connection) >= 0


async def test_a_reset_reaches_the_other_side(net: Net) -> None:
    failure: list[StreamError] = []
    seen = trio.Event()

    async def handler(stream: Stream) -> None:
        try:
            assert await stream.read_frame(10) == b"one"
            await stream.read_frame(10)
        except StreamError as error:
            failure.append(error)
        seen.set()

    one, two = await net.host(), await net.host(prepare=lambda host: host.set_handler("/reset", handler))
    connection = await net.connect(one, two)
    stream = await connection.open_stream("/reset")
    await stream.write_frame(b"one")
    await trio.testing.wait_all_tasks_blocked()
    await stream.reset()
    await seen.wait()
    assert "reset" in str(failure[0])
    assert await ping(connection) >= 0


async def test_a_handler_that_fails_resets_its_stream(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(stream: Stream) -> None:
        raise RuntimeError("a mistake")

    one, two = await net.host(), await net.host(prepare=lambda host: host.set_handler("/broken", broken))
    connection = await net.connect(one, two)
    async with await connection.open_stream("/broken") as stream:
        with pytest.raises(StreamError):
            await stream.read_frame(10)
    assert await ping(connection) >= 0
    assert "a mistake" in caplog.text


async def test_a_protocol_that_nobody_speaks(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    async with await connection.open_stream("/none") as stream:
        await stream.write_frame(b"sent along")
        with pytest.raises(ProtocolNotSupported, match="/none"):
            await stream.read_frame(10)
    assert await ping(connection) >= 0


async def test_a_frame_that_is_too_long_is_an_error_of_its_stream(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    async with await connection.open_stream(ECHO) as stream:
        await stream.write_frame(b"x" * 101)
        with pytest.raises(StreamError, match="101 bytes"):
            await stream.read_frame(100)
    assert await ping(connection) >= 0


async def test_identify_says_who_is_there(net: Net) -> None:
    one = await net.host(registry_port=5000, zone="zone-a")
    two = await net.host()
    connection = await net.connect(two, one)
    about = await connection.identify()
    assert about.peer_id == one.host.peer_id == connection.peer_id
    assert {ECHO, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= about.protocols
    assert (about.registry_port, about.zone, about.agent_version) == (5000, "zone-a", "peili/test")
    back = one.host.connection(two.host.peer_id)
    assert back is not None
    assert (await back.identify()).registry_port == 0


async def test_a_connection_is_used_again_and_dials_are_shared(net: Net) -> None:
    one, two = await net.host(), await net.host()
    found: list[Connection] = []

    async def dial() -> None:
        found.append(await net.connect(one, two))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(dial)
    assert len(set(map(id, found))) == 1
    assert await net.connect(one, two) is found[0]
    assert len(one.host.connections()) == len(two.host.connections()) == 1


async def test_a_shared_dial_survives_the_one_who_began_it(net: Net) -> None:
    one, two = await net.host(), await net.host()
    results: list[Connection] = []
    scope = trio.CancelScope()

    async def begin() -> None:
        with scope:
            await net.connect(one, two)

    async def join() -> None:
        results.append(await net.connect(one, two))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin)
        nursery.start_soon(join)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        scope.cancel()
    assert len(results) == 1


async def test_both_sides_dial_at_once_and_no_stream_is_lost(net: Net) -> None:
    one, two = await net.host(), await net.host()
    answers = 0

    async def talk(source: object, target: object) -> None:
        nonlocal answers
        connection = await net.connect(source, target)  # type: ignore[arg-type]
        async with await connection.open_stream(ECHO) as stream:
            for _ in range(20):
                await stream.write_frame(b"x" * 1000)
                assert await stream.read_frame(1000) == b"x" * 1000
                answers += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk, one, two)
        nursery.start_soon(talk, two, one)
    assert answers == 40
    here, there = one.host.connection(two.host.peer_id), two.host.connection(one.host.peer_id)
    assert here is not None
    assert there is not None
    assert here.outbound != there.outbound  # both choose the same one


async def test_dialling_ourselves_or_somebody_else(net: Net) -> None:
    one, two = await net.host(), await net.host()
    with pytest.raises(SelfDial) as self_dial:
        await one.host.connect("127.0.0.1", one.port, None, 5)
    assert self_dial.value.peer_id == one.host.peer_id
    stranger = Identity.generate().peer_id
    with pytest.raises(DialError, match="somebody else") as other:
        await one.host.connect("127.0.0.1", two.port, stranger, 5)
    assert other.value.peer_id == two.host.peer_id
    connection = await one.host.connect("127.0.0.1", two.port, None, 5)
    assert connection.peer_id == two.host.peer_id
    assert connection.remote == ("127.0.0.1", two.port)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a" * 70 + ".example", ""])
async def test_nobody_there(net: Net, host: str) -> None:
    one = await net.host()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(DialError):
        await one.host.connect(host, port, None, 5)


async def test_a_peer_may_be_refused_by_its_certificate(net: Net) -> None:
    one = await net.host(verify_peer=lambda certificate: False)
    two = await net.host()
    with pytest.raises(DialError, match="may not take part"):
        await one.host.connect("127.0.0.1", two.port, None, 5)
    assert one.host.connections() == ()


async def test_stopping_a_host_ends_its_connections_and_callbacks_tell(net: Net) -> None:
    told: list[tuple[str, object]] = []

    def listen(host: Host) -> None:
        host.on_connected = lambda connection: told.append(("connected", connection.peer_id))
        host.on_disconnected = lambda connection: told.append(("disconnected", connection.peer_id))

    one, two = await net.host(prepare=listen), await net.host()
    connection = await net.connect(one, two)
    assert told == [("connected", two.host.peer_id)]
    two.stop.cancel()
    await connection.wait_closed()
    await trio.testing.wait_all_tasks_blocked()
    assert told[1:] == [("disconnected", two.host.peer_id)]
    assert connection.closed
    with pytest.raises(StreamError):
        await connection.open_stream(ECHO)
    assert one.host.connections() == ()


async def test_closing_a_connection_wakes_whoever_waits(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    stream = await connection.open_stream(ECHO)

    async def wait() -> None:
        with pytest.raises(StreamError, match="ended"):
            await stream.read_frame(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await connection.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert two.host.connections() == ()


async def test_more_connections_than_allowed(net: Net) -> None:
    one = await net.host(limits=HostLimits(connections=2))
    others = [await net.host() for _ in range(3)]
    for other in others[:2]:
        await net.connect(one, other)
    with pytest.raises(DialError, match="in use"):
        await net.connect(one, others[2])
    assert len(one.host.connections()) == 2


async def test_more_streams_than_allowed(net: Net) -> None:
    one, two = await net.host(), await net.host()
    connection = await net.connect(one, two)
    await connection.identify()
    await trio.testing.wait_all_tasks_blocked()
    streams = [await connection.open_stream(ECHO) for _ in range(128)]
    with pytest.raises(StreamError, match="too many"):
        await connection.open_stream(ECHO)
    for stream in streams:
        await stream.reset()
    assert await ping(connection) >= 0


async def test_dials_leave_from_the_source_address_of_their_family(net: Net) -> None:
    one, two = await net.host(source_addresses=["::1", "127.0.0.3"]), await net.host()
    await net.connect(one, two)
    await trio.testing.wait_all_tasks_blocked()
    back = two.host.connection(one.host.peer_id)
    assert back is not None
    assert back.remote[0] == "127.0.0.3"
