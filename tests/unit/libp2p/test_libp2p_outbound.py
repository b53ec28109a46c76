"""Dials by address and by name, from the right address of ours."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from peili.libp2p.outbound import open_outbound
from peili.libp2p.remote import remote_of

NAME = "peili.test"


class Names(trio.abc.HostnameResolver):
    """Knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, family: int = 0, *rest: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if host not in (NAME, NAME.encode()) or not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        kinds = {False: socket.AF_INET, True: socket.AF_INET6}
        return [
            (kinds[":" in one], socket.SOCK_STREAM, 6, "", (one, port, 0, 0) if ":" in one else (one, port))
            for one in self.addresses
        ]

    async def getnameinfo(self, *rest: Any) -> Any:
        raise NotImplementedError


@asynccontextmanager
async def listening(host: str) -> AsyncIterator[tuple[int, trio.SocketListener]]:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        yield listener.socket.getsockname()[1], listener


async def seen(host: str, port: int, listener: trio.SocketListener, sources: list[str]) -> str:
    """The address that the listener sees."""
    with trio.fail_after(5):
        async with await open_outbound(host, port, sources), await listener.accept() as accepted:
            remote = remote_of(accepted)
            assert remote is not None
            return remote[0]


async def test_a_name_with_ipv6_alone_is_reached_whatever_sources_there_are() -> None:
    trio.socket.set_custom_hostname_resolver(Names("::1"))
    async with listening("::1") as (port, listener):
        assert await seen(NAME, port, listener, ["127.0.0.3"]) == "::1"
        assert await seen(NAME, port, listener, ["127.0.0.3", "::1"]) == "::1"
        assert await seen(NAME, port, listener, []) == "::1"


async def test_a_name_with_both_is_dialled_from_a_source_of_ours() -> None:
    trio.socket.set_custom_hostname_resolver(Names("::1", "127.0.0.1"))
    async with listening("127.0.0.1") as (port, listener):
        for sources in (["127.0.0.3"], ["127.0.0.3", "::1"], ["::1", "127.0.0.3"]):
            assert await seen(NAME, port, listener, sources) == "127.0.0.3"


async def test_an_address_needs_no_names() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    async with listening("127.0.0.1") as (port, listener):
        assert await seen("127.0.0.1", port, listener, ["::1", "127.0.0.3"]) == "127.0.0.3"
        assert await seen("127.0.0.1", port, listener, ["::1"]) == "127.0.0.1"


async def test_what_cannot_be_reached_is_an_os_error() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    with pytest.raises(OSError, match="no such name"):
        await open_outbound(NAME, 9, ["127.0.0.3"])
    async with listening("127.0.0.1") as (port, _):
        pass
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.1", "::1"))
    with pytest.raises(OSError, match="failed"):
        await open_outbound(NAME, port, ["127.0.0.3", "::1"])


async def test_a_family_that_is_silent_does_not_take_all_the_time(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    asked = []

    async def dial(host: str, port: int, **more: str) -> None:
        asked.append(more["local_address"])
        if len(asked) == 1:
            await trio.sleep_forever()
        raise OSError("refused")

    monkeypatch.setattr(trio, "open_tcp_stream", dial)
    trio.socket.set_custom_hostname_resolver(Names("::1", "127.0.0.1"))
    with pytest.raises(OSError, match="refused"), trio.fail_after(10):
        await open_outbound(NAME, 9, ["127.0.0.3", "::1"])
    assert asked == ["::1", "127.0.0.3"]
    assert trio.current_time() < 2
