"""Our wire against an independent implementation: js-libp2p dials us, and we dial it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from peili.libp2p.host import DialError, ExtraExtension, Host, ProtocolNotSupported, Stream
from peili.libp2p.identity import Identity
from peili.libp2p.multiaddr import Multiaddr
from peili.libp2p.peer_id import PeerId
from peili.libp2p.ping import ping
from peili.members.certificate_mac import EXTENSION_OID, extension_value
from tests.integration.js_libp2p.peer import js_peer, require

pytestmark = pytest.mark.slow
ECHO = "/test/echo/1.0.0"
SIZE = 3 * 1024 * 1024  # bytes: many windows


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    require()


async def echo(stream: Stream) -> None:
    """Send every byte back; the other side's chunks are no frames."""
    while (byte := await stream.read_some()) is not None:
        await stream.write(byte)


@asynccontextmanager
async def our_host() -> AsyncIterator[tuple[Host, str]]:
    host = Host(
        Identity.generate(),
        agent_version="peili/test",
        registry_port=5000,
        zone="zone-a",
        # Others ignore the proof that a member of a cluster with a secret has in its certificate.
        extra_extensions=lambda public_key: [ExtraExtension(EXTENSION_OID, extension_value(bytes(32), public_key))],
    )
    host.set_handler(ECHO, echo)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = Multiaddr.of("127.0.0.1", listener.socket.getsockname()[1], host.peer_id)
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await host.run([listener], listen_addresses=[address], task_status=task_status)

        await nursery.start(run)
        yield host, str(address)
        nursery.cancel_scope.cancel()


async def test_we_dial_js_libp2p() -> None:
    async with js_peer() as js, our_host() as (host, _):
        connection = await host.connect("127.0.0.1", js.port, PeerId.parse(js.peer), 10)
        about = await connection.identify()
        assert str(about.peer_id) == js.peer
        assert "js-libp2p" in about.agent_version
        assert {ECHO, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= about.protocols
        assert Multiaddr.of("127.0.0.1", js.port) in [
            Multiaddr.of(one.host, one.port) for one in about.listen_addresses if one.port is not None
        ]
        assert (about.registry_port, about.zone) == (0, "")
        assert 0 <= await ping(connection) < 5
        assert str(host.peer_id) in (await js.ask("peers"))["peers"]
        async with await connection.open_stream("/none") as stream:
            await stream.write_frame(b"sent along")
            with pytest.raises(ProtocolNotSupported):
                await stream.read_frame(10)
        assert 0 <= await ping(connection) < 5
        await connection.aclose()


async def test_we_dial_js_libp2p_by_its_address_alone() -> None:
    async with js_peer() as js, our_host() as (host, _):
        connection = await host.connect("127.0.0.1", js.port, None, 10)
        assert str(connection.peer_id) == js.peer
        await connection.aclose()
        with pytest.raises(DialError, match="somebody else"):
            await host.connect("127.0.0.1", js.port, Identity.generate().peer_id, 10)


async def test_js_libp2p_dials_us() -> None:
    async with js_peer() as js, our_host() as (host, address):
        assert (await js.ask("dial", address=address))["peer"] == str(host.peer_id)
        about = await js.ask("identify", peer=str(host.peer_id))
        assert about["peer"] == str(host.peer_id)
        assert about["agent"] == "peili/test"
        assert ECHO in about["protocols"]
        assert about["addresses"] == [address]
        assert 0 <= (await js.ask("ping", address=address))["milliseconds"] < 5000
        connection = host.connection(PeerId.parse(js.peer))
        assert connection is not None
        assert not connection.outbound
        assert "js-libp2p" in (await connection.identify()).agent_version
        assert 0 <= await ping(connection) < 5


async def test_many_windows_in_both_directions() -> None:
    async with js_peer() as js, our_host() as (host, address):
        assert await js.ask("echo", address=address, size=SIZE) == {"received": SIZE}
        connection = await host.connect("127.0.0.1", js.port, PeerId.parse(js.peer), 10)
        async with await connection.open_stream(ECHO) as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                for _ in range(SIZE // 32_768):
                    await stream.write(bytes(32_768))
                await stream.close_write()

            nursery.start_soon(send)
            received = 0
            while (data := await stream.read_some()) is not None:
                received += len(data)
        assert received == SIZE


async def test_many_streams_and_cancellations() -> None:
    async with js_peer() as js, our_host() as (host, _):
        connection = await host.connect("127.0.0.1", js.port, PeerId.parse(js.peer), 10)
        answers = 0

        async def request(number: int) -> None:
            nonlocal answers
            async with await connection.open_stream(ECHO) as stream:
                with trio.CancelScope() as scope:
                    if number % 6 == 0:
                        scope.cancel()
                    await stream.write_frame(b"%d" % number)
                    assert await stream.read_frame(10) == b"%d" % number
                    answers += 1

        for start in range(0, 300, 30):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 30):
                    nursery.start_soon(request, number)
        assert answers == 250
        assert 0 <= await ping(connection) < 5
