"""Readers that stop: what a node holds in memory for them is bounded, and others are answered, or told in time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from peili.demo.images import build_image
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.mirror.body_budget import PATIENCE, WHOLE_BODY_BYTES
from peili.mirror.race import NO_ROOM
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.registry.record import Outcome, RequestRecord
from peili.routing.memory import MemoryNetwork
from peili.settings import RunSettings
from tests.fakes.nodes import PORT, TestNode, fake_provider, running_node
from tests.fakes.routers import until

NAME, OWN_NAME = "docker.io/library/app:1", "docker.io/library/own:1"
IMAGE = build_image("bodies", layer_sizes=(1_000_000, 900_000, 2_000, 3_000_000))
OWN = build_image("own", layer_sizes=(900_000,))
TAG = "/v2/library/app/manifests/1?ns=docker.io"
FULL, MEDIUM, SMALL, LARGE = (layer.digest for layer in IMAGE.layers)
OWN_LAYER = OWN.layers[0].digest
SIZE = len(IMAGE.blobs[FULL])
READERS = 100
IN_TIME = 10 * PATIENCE  # seconds; the machine may have much else to do


def blob(digest: Digest) -> str:
    return f"/v2/library/app/blobs/{digest}?ns=docker.io"


@asynccontextmanager
async def a_pair(directory: Path) -> AsyncIterator[tuple[TestNode, TestNode]]:
    """A node that has the image, and one that has another and pulls."""
    network = MemoryNetwork()

    def patient(settings: RunSettings) -> RunSettings:
        return replace(settings, stall_timeout=IN_TIME)  # a hundred at once are slow, and nobody is to be given up

    async with (
        running_node(network, directory / "1") as holder,
        running_node(network, directory / "2", change=patient) as puller,
    ):
        holder.layout.add(NAME, IMAGE)
        await holder.wait_offered(Key(NAME))
        await holder.wait_offered(Key(str(LARGE)))
        puller.layout.add(OWN_NAME, OWN)
        await puller.wait_offered(Key(str(OWN_LAYER)))
        yield holder, puller
        with trio.fail_after(IN_TIME):
            await until(lambda: puller.node.body_budget.held == 0)


@contextmanager
def stopped_readers(count: int) -> Iterator[list[trio.socket.SocketType]]:
    """Sockets of clients that will take little more than the head of an answer."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(trio.socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield sockets


async def status_of(sock: trio.socket.SocketType, host: str) -> bytes:
    """Ask for the blob of a megabyte, and read the status alone."""
    await sock.connect((host, PORT))
    await sock.send(f"GET {blob(FULL)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return (await sock.recv(12))[9:]


async def record_of(node: TestNode, digest: Digest) -> RequestRecord:
    """The latest request for it, once it is recorded: that is after its answer went out."""

    def found() -> list[RequestRecord]:
        return [record for record in node.node.recent.requests() if record.name == str(digest)]

    with trio.fail_after(IN_TIME):
        await until(lambda: bool(found()))
    return found()[-1]


async def test_a_hundred_stopped_readers_hold_no_more_than_the_budget(tmp_path: Path) -> None:
    statuses: list[bytes] = []
    async with a_pair(tmp_path) as (_, puller):
        budget = puller.node.body_budget

        async def ask(sock: trio.socket.SocketType) -> None:
            statuses.append(await status_of(sock, puller.host))
            assert budget.held <= WHOLE_BODY_BYTES

        with stopped_readers(READERS) as sockets:
            with trio.fail_after(IN_TIME):
                async with trio.open_nursery() as nursery:
                    for sock in sockets:
                        nursery.start_soon(ask, sock)
            answered = WHOLE_BODY_BYTES // SIZE
            assert (statuses.count(b"200"), statuses.count(b"404")) == (answered, READERS - answered)
            assert budget.held == answered * SIZE

            # What fits beside them is answered; what does not is left to upstream, in time and with its reason.
            with trio.fail_after(IN_TIME):
                assert (await puller.get(blob(MEDIUM))).status == 404
            record = await record_of(puller, MEDIUM)
            assert (record.outcome, record.reason) == (Outcome.MISS, NO_ROOM)
            assert (await puller.get(TAG)).body == IMAGE.blobs[IMAGE.descriptor.digest]
            assert (await puller.get(blob(SMALL))).body == IMAGE.blobs[SMALL]
            # What is not read whole needs no room: a relay, and this node's own files.
            assert (await puller.get(blob(LARGE))).body == IMAGE.blobs[LARGE]
            assert (await puller.get(blob(OWN_LAYER))).body == OWN.blobs[OWN_LAYER]
            assert budget.held == answered * SIZE
        with trio.fail_after(IN_TIME):
            await until(lambda: budget.held == 0)
        assert (await puller.get(blob(MEDIUM))).body == IMAGE.blobs[MEDIUM]


async def test_a_head_of_a_tag_needs_room_for_the_manifest_that_is_hashed(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as (_, puller):
        lease = await puller.node.body_budget.take(WHOLE_BODY_BYTES - 10)
        with trio.fail_after(IN_TIME):
            assert (await puller.get(TAG, "HEAD")).status == 404
        assert (await puller.records(1))[-1].reason == NO_ROOM
        lease.release()
        assert (await puller.get(TAG, "HEAD")).status == 200


async def test_a_small_body_in_place_of_the_rest_of_a_large_one_is_let_go(tmp_path: Path) -> None:
    """A peer that lies of a size breaks off; who is asked for the rest has a blob that is read whole."""

    async def lie(exchange: Exchange) -> None:
        sink = await exchange.start(200, Headers(), 2_000_000)
        await sink.write(IMAGE.blobs[SMALL][:100])

    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1") as holder,
        running_node(network, tmp_path / "2", change=lambda settings: replace(settings, zone="z")) as puller,
        fake_provider(network, [Key(str(SMALL))], lie, zone="z"),  # the same zone is asked first
    ):
        holder.layout.add(NAME, IMAGE)
        await holder.wait_offered(Key(str(SMALL)))
        answer = await puller.get(blob(SMALL))
        assert (answer.complete, answer.body) == (False, IMAGE.blobs[SMALL][:100])
        given = [record.size for record in await holder.records(2)]
        rest, whole = sorted(given)
        assert whole == len(IMAGE.blobs[SMALL])
        assert rest in (len(IMAGE.blobs[SMALL]) - 100, 0), "the puller lets go as soon as it sees the head"
        assert puller.node.body_budget.held == 0
