"""A provider that fell silent without a word: its kept connections are given up with the first that shows it."""

from __future__ import annotations

import pytest
import trio

from peili.http.client import Client
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange, Server, listen
from peili.members.peer_requests import PeerRequests
from peili.mirror.attempt import Asker, Wanted, Whole
from peili.mirror.body_budget import BodyBudget
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget
from peili.routing.protocol import Provider

BODY = b"content"
HOST = "127.0.0.1"


async def test_a_silent_provider_costs_one_timeout_and_not_one_for_each_kept_connection() -> None:
    silent, asked, arrived = False, 0, trio.Event()
    target = BlobTarget("docker.io", "a", Digest.of(BODY))

    async def handle(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if silent:
            await trio.sleep_forever()
        if asked == 2:
            arrived.set()
        await arrived.wait()
        await exchange.respond(200, Headers(), BODY)

    client, server = Client(), Server(handle, on_error=lambda exchange, error: None)
    async with trio.open_nursery() as nursery:
        listeners = await listen(SocketAddress(HOST, 0))
        provider = Provider("peer", HOST, listeners[0].socket.getsockname()[1])
        await nursery.start(server.run, listeners)
        asker = Asker(client, PeerRequests(Headers(), None), BodyBudget(), silence=0.2)

        async def ask() -> None:
            assert isinstance(await asker.ask(provider, Wanted(target)), Whole)

        async with trio.open_nursery() as both:
            both.start_soon(ask)
            both.start_soon(ask)
        assert client.statistics().idle == 2
        silent = True
        with pytest.raises(AttemptFailed) as caught:
            await asker.ask(provider, Wanted(target))
        assert caught.value.kind is FailureKind.TIMEOUT
        assert client.statistics().idle == 0
        silent = False
        await ask()
        assert client.statistics().connected == 3, "on a fresh connection"
        await client.aclose()
        nursery.cancel_scope.cancel()
