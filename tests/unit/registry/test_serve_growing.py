"""The endpoint serves what its store still receives to peers that follow: real HTTP, a real layout store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peili.demo.images import Layout
from peili.demo.ingest import Ingest
from peili.http.client import Client, Response
from peili.http.errors import SourceFailed
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange
from peili.mirror.mirror import Mirror, Trace
from peili.oci.digest import Digest
from peili.registry.endpoint import GROWING_STALL, Registry
from peili.registry.gate import Gate
from peili.registry.policy import Policy
from peili.registry.record import ByteSource, Handler, Outcome, RequestRecord
from peili.store.layout import LayoutStore
from tests.fakes.ingests import MEBIBYTE, layer_of
from tests.unit.http.loopback import open_descriptors, serving

DESCRIPTOR, CONTENT = layer_of("followed", 3 * MEBIBYTE + 5)
TARGET = f"/v2/team/app/blobs/{DESCRIPTOR.digest}?ns=docker.io"
PEER = {"X-Peili-Mirrored": "true"}
FOLLOWER = {**PEER, "X-Peili-Follow": "1"}


class NoMirror:
    """Finds nothing anywhere."""

    async def answer(self, *_: object) -> Trace:
        return Trace()


@dataclass
class Place:
    """A store in which the first MEBIBYTE of a layer is there, and the endpoint over it."""

    store: LayoutStore
    ingest: Ingest
    address: SocketAddress
    records: list[RequestRecord]
    recorded: trio.Event

    @asynccontextmanager
    async def open(self, method: str = "GET", target: str = TARGET, **fields: str) -> AsyncIterator[Response]:
        """The head of an answer, on a connection of its own; `fields` beside those of a follower."""
        client = Client()
        headers = Headers.of({**FOLLOWER, **fields})
        with trio.fail_after(15):
            response = await client.open(self.address, method, target, headers, connect_timeout=2, head_timeout=5)
            async with response:
                yield response
            await client.aclose()

    async def record(self) -> RequestRecord:
        """The first request's, once it is over."""
        with trio.fail_after(15):
            await self.recorded.wait()
        return self.records[0]


@asynccontextmanager
async def receiving(directory: Path, *, stall: float = GROWING_STALL) -> AsyncIterator[Place]:
    layout = Layout(directory)
    store, records, recorded = LayoutStore(layout.directory), list[RequestRecord](), trio.Event()

    def record(entry: RequestRecord) -> None:
        records.append(entry)
        recorded.set()

    mirror = cast(Mirror, NoMirror())
    registry = Registry(store, mirror, Policy(), Gate(), record, growing_stall=stall)
    ingest = Ingest(directory, DESCRIPTOR)
    ingest.write(CONTENT[:MEBIBYTE])
    async with trio.open_nursery() as nursery, serving(registry.handle) as served:
        await nursery.start(store.run)
        try:
            yield Place(store, ingest, served.address, records, recorded)
        finally:
            ingest.close()
        nursery.cancel_scope.cancel()


async def read(response: Response) -> bytes:
    """The body as far as it comes."""
    body = bytearray()
    try:
        while response.source.remaining:
            body += await response.source.receive()
    except SourceFailed:
        pass
    return bytes(body)


async def read_exactly(response: Response, count: int) -> bytes:
    body = bytearray()
    while len(body) < count:
        body += await response.source.receive(count - len(body))
    return bytes(body)


async def test_a_follower_gets_the_layer_while_it_arrives(tmp_path: Path) -> None:
    async with receiving(tmp_path) as place:
        async with place.open() as response:
            assert response.status == 200
            fields = response.headers
            assert fields.get("Content-Length") == str(len(CONTENT))
            assert fields.get("Docker-Content-Digest") == str(DESCRIPTOR.digest)
            assert fields.get("X-Peili-Growing") == str(MEBIBYTE)
            body = await read_exactly(response, MEBIBYTE)
            for start in range(MEBIBYTE, len(CONTENT), MEBIBYTE):
                await wait_all_tasks_blocked()
                piece = CONTENT[start : start + MEBIBYTE]
                place.ingest.write(piece)
                body += await read_exactly(response, len(piece))
            place.ingest.commit()
            assert DESCRIPTOR.digest.matches(body)
        record = await place.record()
        assert (record.handler, record.outcome) == (Handler.SERVE, Outcome.HIT)
        assert (record.source, record.size) == (ByteSource.GROWING, len(CONTENT))


async def test_the_head_of_a_part_that_is_not_there_yet_comes_at_once(tmp_path: Path) -> None:
    start = 2 * MEBIBYTE + 1
    async with receiving(tmp_path) as place, place.open(Range=f"bytes={start}-") as response:
        assert response.status == 206
        assert response.headers.get("Content-Range") == f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        assert response.headers.get("X-Peili-Growing") == str(MEBIBYTE)
        place.ingest.write(CONTENT[MEBIBYTE:])
        place.ingest.commit()
        assert await read(response) == CONTENT[start:]


async def test_a_part_beyond_the_total_is_refused_and_a_head_has_no_body(tmp_path: Path) -> None:
    async with receiving(tmp_path) as place:
        async with place.open(Range=f"bytes={len(CONTENT)}-") as beyond:
            assert beyond.status == 416
            assert beyond.headers.get("Content-Range") == f"bytes */{len(CONTENT)}"
            assert beyond.headers.get("X-Peili-Growing") == str(MEBIBYTE)
        async with place.open("HEAD") as head:
            assert head.status == 200
            assert head.headers.get("X-Peili-Growing") == str(MEBIBYTE)


@pytest.mark.parametrize("left_out", ["X-Peili-Follow", "X-Peili-Mirrored"])
async def test_nobody_else_gets_what_is_not_verified(tmp_path: Path, left_out: str) -> None:
    fields = {name: value for name, value in FOLLOWER.items() if name != left_out}
    async with receiving(tmp_path) as place:
        client = Client()
        answer = await client.open(
            place.address, "GET", TARGET, Headers.of(fields), connect_timeout=2, head_timeout=5
        )
        async with answer:
            assert answer.status == 404
        await client.aclose()


async def test_manifests_and_what_nobody_sends_are_not_there(tmp_path: Path) -> None:
    absent = TARGET.replace(str(DESCRIPTOR.digest), str(Digest.of(b"absent")))
    async with receiving(tmp_path) as place:
        for target in (TARGET.replace("blobs", "manifests"), absent):
            async with place.open(target=target) as response:
                assert response.status == 404


async def test_what_is_committed_is_served_as_verified(tmp_path: Path) -> None:
    async with receiving(tmp_path) as place, place.store.changes() as changes:
        assert not (await anext(changes)).keys
        place.ingest.write(CONTENT[MEBIBYTE:])
        place.ingest.commit()
        await anext(changes)
        async with place.open() as response:
            assert "X-Peili-Growing" not in response.headers
            assert DESCRIPTOR.digest.matches(await read(response))
        assert (await place.record()).source is ByteSource.LOCAL


async def test_what_was_committed_a_moment_ago_is_served_as_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving(tmp_path) as place:
        async with place.open("HEAD") as head:
            assert "X-Peili-Growing" in head.headers
        place.ingest.write(CONTENT[MEBIBYTE:])
        place.ingest.commit()
        monkeypatch.setattr(place.store, "descriptor", lambda digest: None)  # the index does not know it yet
        async with place.open() as response:
            assert "X-Peili-Growing" not in response.headers
            assert DESCRIPTOR.digest.matches(await read(response))
        with trio.fail_after(15):
            while len(place.records) < 2:
                await trio.sleep(0.001)
        assert place.records[1].source is ByteSource.LOCAL


async def test_a_pull_that_fails_ends_the_body_early_and_the_next_request_gets_404(tmp_path: Path) -> None:
    async with receiving(tmp_path) as place:
        async with place.open() as response:
            assert await read_exactly(response, MEBIBYTE) == CONTENT[:MEBIBYTE]
            await wait_all_tasks_blocked()
            place.ingest.abort()
            assert await read(response) == b""
            assert response.source.failed
        record = await place.record()
        assert (record.outcome, record.size) == (Outcome.TRUNCATED, MEBIBYTE)
        assert "ended" in record.reason
        async with place.open() as response:
            assert response.status == 404


async def test_a_leftover_ends_the_body_after_the_stall_limit(tmp_path: Path) -> None:
    async with receiving(tmp_path, stall=0.2) as place, place.open() as response:
        assert await read(response) == CONTENT[:MEBIBYTE]
        record = await place.record()
        assert record.outcome is Outcome.TRUNCATED
        assert "did not grow" in record.reason


async def test_a_follower_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    async with receiving(tmp_path) as place:
        before = open_descriptors()
        async with place.open() as response:
            await read_exactly(response, MEBIBYTE)
        place.ingest.write(CONTENT[MEBIBYTE:])  # the sending notices now that nobody reads
        place.ingest.commit()
        await place.record()
        with trio.fail_after(10):
            while open_descriptors() >= before:  # one less than before: the ingest's own
                await trio.sleep(0.001)


async def test_a_served_answer_that_is_cancelled_gives_its_file_back(tmp_path: Path) -> None:
    async with receiving(tmp_path) as place:
        handle = place.store.growing(DESCRIPTOR.digest)
        assert handle is not None
        handle.close()
        before = open_descriptors()
        async with trio.open_nursery() as nursery:

            async def cancelled(exchange: Exchange) -> None:
                mirror = cast(Mirror, NoMirror())
                registry = Registry(place.store, mirror, Policy(), Gate(), place.records.append)
                with trio.move_on_after(0.05):
                    await registry.handle(exchange)

            async with serving(cancelled) as served:
                place.address = served.address
                async with place.open() as response:
                    assert await read(response) == CONTENT[:MEBIBYTE]
            nursery.cancel_scope.cancel()
        assert open_descriptors() == before


async def test_who_asks_before_the_coordinators_is_left_to_them_while_others_are_served(
    tmp_path: Path,
) -> None:
    async with receiving(tmp_path) as place:
        place.ingest.write(CONTENT[MEBIBYTE:])
        place.ingest.commit()
        while place.store.descriptor(DESCRIPTOR.digest) is None:
            await trio.sleep(0.01)
        unnamed = {"X-Peili-Follow": "unless-sending"}
        async with place.open(**unnamed) as first:
            assert first.status == 200
            async with place.open(**unnamed) as second:
                assert (second.status, second.headers.get("X-Peili-Refused")) == (503, "busy")
            async with place.open() as named:
                assert named.status == 200
