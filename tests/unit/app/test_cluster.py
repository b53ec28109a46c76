"""Several whole nodes in one process: content that one lacks comes from the others, whatever they do."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import trio

from peili.demo.images import build_image, random_bytes
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.http.stages import Way
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.media_types import OCI_MANIFEST
from peili.registry.credentials import Credentials
from peili.routing.memory import MemoryNetwork
from peili.settings import RouterProtocol, RunSettings
from tests.fakes.nodes import PORT, TestNode, fake_provider, running_node

NAME = "docker.io/library/app:1"
IMAGE = build_image("app", layer_sizes=(3_000_000, 5_000))
TAG = "/v2/library/app/manifests/1?ns=docker.io"
LARGE = IMAGE.layers[0].digest
CONTENT = IMAGE.blobs[LARGE]
SMALL = IMAGE.layers[1].digest
MANIFEST = IMAGE.blobs[IMAGE.descriptor.digest]


def blob(digest: Digest) -> str:
    return f"/v2/library/app/blobs/{digest}?ns=docker.io"


def in_zone(settings: RunSettings) -> RunSettings:
    return replace(settings, zone="z")


async def add_image(node: TestNode) -> None:
    node.layout.add(NAME, IMAGE)
    await node.wait_offered(Key(NAME))
    await node.wait_offered(Key(str(LARGE)))


async def test_a_node_pulls_everything_from_its_peer(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        await add_image(one)
        head = await two.get(TAG, "HEAD")
        assert head.headers.get("Docker-Content-Digest") == str(IMAGE.descriptor.digest)
        assert (await two.get(TAG)).body == MANIFEST
        for digest, content in IMAGE.blobs.items():
            if digest != IMAGE.descriptor.digest:
                answer = await two.get(blob(digest))
                assert (answer.status, answer.body == content, answer.complete) == (200, True, True)
                part = await two.get(blob(digest), Range="bytes=7-")
                assert (part.status, part.body == content[7:]) == (206, True)
        await two.records(2 + 2 * (len(IMAGE.blobs) - 1))
        assert two.node.recent.totals.bytes_from_peers > len(CONTENT)
        assert one.node.recent.totals.bytes_to_peers > len(CONTENT)


async def test_a_peers_request_is_never_forwarded(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        await add_image(one)
        for header in ("X_Peili_Mirrored", "X_Spegel_Mirrored"):
            assert (await two.get(TAG, **{header: "true"})).status == 404
            assert (await one.get(TAG, **{header: "true"})).status == 200
        assert two.node.recent.totals.bytes_from_peers == 0


@pytest.mark.parametrize("protocol", list(RouterProtocol))
async def test_requests_to_peers_are_marked_as_their_kind_knows_it(
    tmp_path: Path, protocol: RouterProtocol
) -> None:
    marks: list[str] = []

    async def handle(exchange: Exchange) -> None:
        marks.extend(name for name, _ in exchange.request.headers if name.lower().endswith("mirrored"))
        await exchange.respond(404, Headers(), b"")

    def change(settings: RunSettings) -> RunSettings:
        return replace(settings, router_protocol=protocol)

    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path, change=change) as node,
        fake_provider(network, [Key(str(LARGE))], handle),
    ):
        assert (await node.get(blob(LARGE))).status == 404
    assert [mark.lower() for mark in marks] == [f"x-{protocol}-mirrored"]


async def test_a_large_blob_goes_past_this_process_but_for_what_came_with_the_head(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        await add_image(one)
        assert (await two.get(blob(LARGE))).complete
        lines = two.node.metrics.render().decode().splitlines()
        spliced, copied, with_head = (
            next(
                float(line.split()[1])
                for line in lines
                if line.startswith(f'peili_relayed_bytes_total{{way="{way}"}}')
            )
            for way in Way
        )
        assert (copied, spliced + with_head) == (0, len(CONTENT))
        assert with_head <= 16384


async def test_removed_content_is_no_longer_offered(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        await add_image(one)
        one.layout.remove(NAME)
        one.layout.remove_blobs([LARGE])
        with trio.fail_after(10):
            while one.router.provides(Key(NAME)) or one.router.provides(Key(str(LARGE))):
                await trio.sleep(0.01)
        assert (await two.get(TAG)).status == 404
        assert (await two.get(blob(LARGE))).status == 404


async def test_credentials_are_used_between_peers_and_a_peers_refusal_is_not_passed_on(tmp_path: Path) -> None:
    network, credentials = MemoryNetwork(), Credentials("user", "secret")

    def with_credentials(settings: RunSettings) -> RunSettings:
        return replace(settings, credentials=credentials)

    async with (
        running_node(network, tmp_path / "1", change=with_credentials) as one,
        running_node(network, tmp_path / "2", change=with_credentials) as two,
        running_node(network, tmp_path / "3") as stranger,
    ):
        await add_image(one)
        assert (await two.get(TAG, Authorization=credentials.header)).status == 200
        answer = await stranger.get(TAG)
        assert answer.status == 404
        assert "WWW-Authenticate" not in answer.headers


def answering(
    status: int,
    body: bytes,
    fields: Mapping[str, str] = MappingProxyType({}),
    *,
    length: int | None = None,
    silent_after: bool = False,
) -> Callable[[Exchange], Awaitable[None]]:
    """A peer that states `length` and sends `body`, then ends the connection or falls silent."""

    async def handle(exchange: Exchange) -> None:
        sink = await exchange.start(status, Headers.of(fields), len(body) if length is None else length)
        if exchange.request.method != "HEAD":
            await sink.write(body)
        if silent_after:
            await trio.sleep_forever()

    return handle


async def silent(exchange: Exchange) -> None:
    await trio.sleep_forever()


async def test_a_peer_that_lies_about_a_small_blob_or_a_manifest_is_passed_over(tmp_path: Path) -> None:
    network = MemoryNetwork()
    wrong = bytes(len(IMAGE.blobs[SMALL]))
    keys = [Key(str(SMALL)), Key(NAME), Key(str(IMAGE.descriptor.digest))]
    fields = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": str(IMAGE.descriptor.digest)}
    async with (
        running_node(network, tmp_path / "1") as one,
        running_node(network, tmp_path / "2") as two,
        fake_provider(network, keys, answering(200, wrong, fields)) as liar,
    ):
        await add_image(one)
        for _ in range(10):  # the order of providers is random
            assert (await two.get(blob(SMALL))).body == IMAGE.blobs[SMALL]
            assert (await two.get(TAG)).body == MANIFEST
            assert (await two.get(f"/v2/library/app/manifests/{IMAGE.descriptor.digest}")).body == MANIFEST
        kinds = two.node.metrics.render().decode()
        assert liar not in {p for record in two.node.recent.requests() for p in record.providers}
        assert 'peili_provider_failures_total{kind="digest"} 0.0' not in kinds


async def test_only_a_liar_has_it_so_nobody_has_it(tmp_path: Path) -> None:
    network = MemoryNetwork()
    body = b"{}" * 100
    key, digest = Key(str(Digest.of(b"good"))), Digest.of(b"good")
    async with (
        running_node(network, tmp_path / "2") as two,
        fake_provider(network, [key], answering(200, body)),
    ):
        assert (await two.get(blob(digest))).status == 404
        assert (await two.get(f"/v2/a/manifests/{digest}?ns=docker.io")).status == 404


@pytest.mark.parametrize("stalls", [False, True])
async def test_a_body_goes_on_from_another_peer(tmp_path: Path, stalls: bool) -> None:
    network = MemoryNetwork()
    broken = answering(200, CONTENT[:1_500_000], length=len(CONTENT), silent_after=stalls)
    async with (
        running_node(network, tmp_path / "1") as one,
        running_node(network, tmp_path / "2", change=in_zone) as two,
        fake_provider(network, [Key(str(LARGE))], broken, zone="z") as breaker,
    ):
        await add_image(one)
        for count, providers in ((1, (breaker, one.host)), (2, (one.host,))):
            answer = await two.get(blob(LARGE))
            assert (answer.complete, answer.body == CONTENT) == (True, True)
            # The same zone comes first, until it has failed.
            assert (await two.records(count))[-1].providers == tuple(f"{host}:{PORT}" for host in providers)
        text = two.node.metrics.render().decode()
        assert "peili_resumes_total 1.0" in text
        assert f'peili_provider_failures_total{{kind="{"stalled" if stalls else "ended"}"}} 1.0' in text


async def test_a_resume_happens_and_asks_for_exactly_the_missing_bytes(tmp_path: Path) -> None:
    network = MemoryNetwork()
    asked: list[str | None] = []
    good_is_there = trio.Event()

    async def good(exchange: Exchange) -> None:
        asked.append(exchange.request.headers.get("Range"))
        start = int(str(asked[-1]).removeprefix("bytes=").partition("-")[0])
        fields = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        sink = await exchange.start(206, Headers.of(fields), len(CONTENT) - start)
        await sink.write(CONTENT[start:])

    async def breaking(exchange: Exchange) -> None:
        sink = await exchange.start(200, Headers(), len(CONTENT))
        await sink.write(CONTENT[:1_500_000])
        await good_is_there.wait()

    async with (
        running_node(network, tmp_path / "2") as two,
        fake_provider(network, [Key(str(LARGE))], breaking) as breaker,
        trio.open_nursery() as nursery,
    ):
        answers = []

        async def pull() -> None:
            answers.append(await two.get(blob(LARGE)))

        nursery.start_soon(pull)
        with trio.fail_after(10):
            while two.node.recent.totals.hits == 0 and not two.node._registry.statistics().in_flight:
                await trio.sleep(0.01)
        async with fake_provider(network, [Key(str(LARGE))], good) as helper:
            good_is_there.set()
            with trio.fail_after(10):
                while not answers:
                    await trio.sleep(0.01)
            record = (await two.records(1))[-1]
            assert record.providers == (f"{breaker}:{PORT}", f"{helper}:{PORT}")
        assert answers[0].complete
        assert hashlib.sha256(answers[0].body).hexdigest() == LARGE.hex
        assert asked == [f"bytes=1500000-{len(CONTENT) - 1}"]


async def test_with_nobody_left_the_body_ends_with_fin_and_the_retry_gets_404(tmp_path: Path) -> None:
    network = MemoryNetwork()
    broken = answering(200, CONTENT[:1_500_000], length=len(CONTENT))
    async with running_node(network, tmp_path / "2") as two, fake_provider(network, [Key(str(LARGE))], broken):
        body = await trio.to_thread.run_sync(_raw_body, two.host, blob(LARGE))
        assert body == CONTENT[:1_500_000]
        retry = await two.get(blob(LARGE), Range="bytes=1500000-")
        assert retry.status == 404
        first, second = await two.records(2)
        assert (first.outcome, second.reason) == ("truncated", "gave_up")


def _raw_body(host: str, target: str) -> bytes:
    """The body up to the FIN; a reset would raise ConnectionResetError."""
    with socket.create_connection((host, PORT), timeout=10) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = bytearray()
        while data := sock.recv(65536):
            received += data
    return bytes(received).partition(b"\r\n\r\n")[2]


async def test_a_silent_peer_gets_company(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1") as one,
        running_node(network, tmp_path / "2", change=in_zone) as two,
        fake_provider(network, [Key(str(SMALL))], silent, zone="z"),  # so it is asked first
    ):
        await add_image(one)
        hedges = 0
        for count in range(1, 5):
            assert (await two.get(blob(SMALL))).body == IMAGE.blobs[SMALL]
            record = (await two.records(count))[-1]
            assert record.first_byte_seconds < 0.5
            hedges += record.attempts - 1
        assert hedges >= 1
        assert f"peili_hedges_total {float(hedges)}" in two.node.metrics.render().decode()


async def test_a_silent_peer_alone_costs_no_more_than_the_stall_limit(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "2") as two, fake_provider(network, [Key(str(SMALL))], silent):
        assert (await two.get(blob(SMALL))).status == 404
        assert (await two.records(1))[-1].seconds < 2.0
        assert 'peili_provider_failures_total{kind="timeout"} 1.0' in two.node.metrics.render().decode()


async def test_a_peer_with_another_size_does_not_continue_a_body(tmp_path: Path) -> None:
    network = MemoryNetwork()
    other = random_bytes("other", 2_000_000)
    fields = {"Content-Range": f"bytes 1500000-{len(other) - 1}/{len(other)}"}
    async with (
        running_node(network, tmp_path / "2") as two,
        fake_provider(network, [Key(str(LARGE))], answering(200, CONTENT[:1_500_000], length=len(CONTENT))),
        fake_provider(network, [Key(str(LARGE))], answering(206, other[1_500_000:], fields)),
    ):
        answer = await two.get(blob(LARGE))
        assert not answer.complete
        assert answer.body == CONTENT[:1_500_000]
