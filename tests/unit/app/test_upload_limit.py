"""A holder that sends as many large blobs as it may: peers hear so at once and go elsewhere."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from peili.demo.images import build_image
from peili.mirror.history import BUSY_PENALTY
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.routing.memory import MemoryNetwork
from peili.settings import RunSettings
from peili.store.growing import LAYOUT_NAMESPACE
from tests.fakes.ingests import MEBIBYTE, FileIncoming
from tests.fakes.nodes import PORT, TestNode, running_node

NAME = "docker.io/library/app:1"
IMAGE = build_image("uploads", layer_sizes=(16_000_000, 5_000))  # more than what sockets hold
TAG = "/v2/library/app/manifests/1?ns=docker.io"
LARGE, SMALL = (layer.digest for layer in IMAGE.layers)
CONTENT = IMAGE.blobs[LARGE]


def blob(digest: Digest) -> str:
    return f"/v2/library/app/blobs/{digest}?ns=docker.io"


def uploads(limit: int) -> Callable[[RunSettings], RunSettings]:
    return lambda settings: replace(settings, max_uploads=limit)


async def add_image(node: TestNode) -> None:
    node.layout.add(NAME, IMAGE)
    await node.wait_offered(Key(NAME))
    await node.wait_offered(Key(str(LARGE)))


@asynccontextmanager
async def slow_reader(node: TestNode, *, peer: bool = True) -> AsyncIterator[None]:
    """Somebody who asked for the large blob and reads no further than the head."""
    mark = "X-Peili-Mirrored: true\r\n" if peer else ""
    with trio.socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect((node.host, PORT))
        await sock.send(f"GET {blob(LARGE)} HTTP/1.1\r\nHost: x\r\n{mark}\r\n".encode())
        assert (await sock.recv(64)).startswith(b"HTTP/1.1 200")
        yield


def refused(node: TestNode) -> float:
    lines = node.node.metrics.render().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("peili_uploads_refused_total "))


async def test_over_the_limit_peers_get_503_for_large_blobs_and_nobody_else_is_refused(tmp_path: Path) -> None:
    async with running_node(MemoryNetwork(), tmp_path, change=uploads(1)) as node:
        await add_image(node)
        mark = {"X_Peili_Mirrored": "true"}
        async with slow_reader(node):
            for more in ({}, {"Range": "bytes=100-"}):
                answer = await node.get(blob(LARGE), **mark, **more)
                assert answer.status == 503
                assert json.loads(answer.body)["errors"][0]["code"] == "UNAVAILABLE"
            assert (await node.get(blob(LARGE), "HEAD", **mark)).status == 200
            assert (await node.get(TAG, **mark)).status == 200
            assert (await node.get(blob(SMALL), **mark)).body == IMAGE.blobs[SMALL]
            own = await node.get(blob(LARGE))
            assert (own.status, own.body == CONTENT) == (200, True)
            await node.records(6)
            assert refused(node) == 2
        await node.records(7)  # the reader went away
        assert (await node.get(blob(LARGE), **mark)).body == CONTENT


async def test_a_refusal_to_one_who_follows_is_not_counted_as_one_of_the_limit(tmp_path: Path) -> None:
    mark = {"X_Peili_Mirrored": "true", "X_Peili_Follow": "1"}
    layer = IMAGE.layers[0]
    async with running_node(MemoryNetwork(), tmp_path, change=uploads(1)) as node:
        incoming = FileIncoming(tmp_path, LAYOUT_NAMESPACE, layer, CONTENT)
        await incoming.arrive(MEBIBYTE)
        answer = await node.get(blob(LARGE), Range=f"bytes={2 * MEBIBYTE}-", **mark)
        assert answer.status == 503
        await node.records(1)
        assert refused(node) == 0
        incoming.close()


async def test_own_containerd_takes_no_place(tmp_path: Path) -> None:
    async with running_node(MemoryNetwork(), tmp_path, change=uploads(1)) as node:
        await add_image(node)
        async with slow_reader(node, peer=False), slow_reader(node, peer=False):
            assert (await node.get(blob(LARGE), X_Peili_Mirrored="true")).body == CONTENT


async def test_a_busy_holder_is_passed_over_for_another_one(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1", change=uploads(1)) as busy,
        running_node(network, tmp_path / "2") as free,
        running_node(network, tmp_path / "3") as puller,
    ):
        await add_image(busy)
        await add_image(free)
        async with slow_reader(busy):
            for count in range(1, 6):
                answer = await puller.get(blob(LARGE))
                assert (answer.complete, answer.body == CONTENT) == (True, True)
                record = (await puller.records(count))[-1]
                assert record.providers == (f"{free.host}:{PORT}",)


async def test_with_all_holders_busy_the_pull_goes_upstream_and_they_are_not_held_to_blame(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1", change=uploads(1)) as one,
        running_node(network, tmp_path / "2", change=uploads(1)) as two,
        running_node(network, tmp_path / "3") as puller,
    ):
        await add_image(one)
        await add_image(two)
        async with slow_reader(one), slow_reader(two):
            for count in range(1, 4):
                assert (await puller.get(blob(LARGE))).status == 404
                record = (await puller.records(count))[-1]
                assert (record.reason, record.attempts) == ("busy", 2)
                assert record.seconds < 0.3
        await one.records(4)
        await two.records(4)
        answer = await puller.get(blob(LARGE))
        assert answer.body == CONTENT
        assert (await puller.records(4))[-1].first_byte_seconds < BUSY_PENALTY
