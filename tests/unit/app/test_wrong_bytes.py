"""A peer whose large blobs are not what they are called: the pull fails once, and the retry succeeds elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image
from peili.demo.ingest import Ingest, WrongDigest
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.mirror.giveup import GiveUps
from peili.oci.descriptor import Descriptor
from peili.oci.key import Key
from peili.routing.memory import MemoryNetwork
from peili.settings import RunSettings
from tests.fakes.nodes import PORT, TestNode, fake_provider, running_node

NAME = "docker.io/library/app:1"
IMAGE = build_image("poison", layer_sizes=(1_500_000, 1_600_000, 1_700_000))
LAYERS = IMAGE.layers
KEYS = [Key(str(layer.digest)) for layer in LAYERS]


def blob(layer: Descriptor) -> str:
    return f"/v2/library/app/blobs/{layer.digest}?ns=docker.io"


def in_zone(settings: RunSettings) -> RunSettings:
    """Peers of the same zone are asked first."""
    return replace(settings, zone="z")


def lying(count: int | None = None) -> Callable[[Exchange], Awaitable[None]]:
    """Bytes of the right length that are the wrong ones; `count`: of so many only, then the connection ends."""

    async def handle(exchange: Exchange) -> None:
        size = next(layer.size for layer in LAYERS if layer.digest.hex in exchange.request.target)
        sink = await exchange.start(200, Headers(), size)
        await sink.write(bytes(size if count is None else count))

    return handle


async def pull(node: TestNode, layer: Descriptor) -> str:
    """What containerd does with a layer: how it ended, "pulled", "wrong", "cut" or "upstream"."""
    ingest = Ingest(node.layout.directory, layer)
    try:
        answer = await node.get(blob(layer))
        if answer.status != 200:
            return "upstream"
        if not answer.complete:
            return "cut"
        ingest.write(answer.body)
        try:
            ingest.commit()
        except WrongDigest:
            return "wrong"
        with trio.fail_after(10):
            await node.wait_offered(Key(str(layer.digest)))
        return "pulled"
    finally:
        ingest.abort()


async def blamed(node: TestNode) -> None:
    with trio.fail_after(10):
        while "peili_bodies_thrown_away_total 1.0" not in node.node.metrics.render().decode():
            await trio.sleep(0.01)


async def hold(node: TestNode) -> None:
    node.layout.add(NAME, IMAGE)
    for key in KEYS:
        await node.wait_offered(key)


async def test_wrong_bytes_cost_one_attempt_and_the_retry_comes_from_another_holder(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1") as holder,
        running_node(network, tmp_path / "2", change=in_zone) as puller,
        fake_provider(network, KEYS, lying(), zone="z") as liar,
    ):
        await hold(holder)
        assert [await pull(puller, LAYERS[0]) for _ in range(2)] == ["wrong", "pulled"]
        first, second = await puller.records(2)
        assert (first.providers, second.providers) == ((f"{liar}:{PORT}",), (f"{holder.host}:{PORT}",))
        assert "peili_bodies_thrown_away_total 1.0" in puller.node.metrics.render().decode()


async def test_where_only_the_liar_has_it_the_retry_goes_upstream(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path) as puller, fake_provider(network, KEYS, lying()):
        assert [await pull(puller, LAYERS[0]) for _ in range(3)] == ["wrong", "upstream", "upstream"]


async def test_a_liar_about_every_layer_costs_one_attempt_in_all(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path) as puller, fake_provider(network, KEYS, lying()):
        assert await pull(puller, LAYERS[0]) == "wrong"
        await blamed(puller)  # at once, before anything is asked for again
        assert [await pull(puller, layer) for layer in LAYERS[1:]] == ["upstream"] * 2


async def test_a_crowd_of_liars_costs_one_attempt(tmp_path: Path) -> None:
    """Once lied to, this node reads a holder's bytes itself before containerd gets any."""
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path) as puller,
        fake_provider(network, KEYS, lying()),
        fake_provider(network, KEYS, lying()),
        fake_provider(network, KEYS, lying()),
    ):
        assert [await pull(puller, LAYERS[0]) for _ in range(3)] == ["wrong", "upstream", "upstream"]
        assert [await pull(puller, layer) for layer in LAYERS[1:]] == ["upstream"] * 2


async def test_behind_a_crowd_of_liars_the_honest_holder_is_found_by_the_second_attempt(tmp_path: Path) -> None:
    """Without any upstream: all of them are asked before the honest one, which is in another zone."""
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1") as holder,
        running_node(network, tmp_path / "2", change=in_zone) as puller,
        fake_provider(network, KEYS, lying(), zone="z"),
        fake_provider(network, KEYS, lying(), zone="z"),
        fake_provider(network, KEYS, lying(), zone="z"),
    ):
        await hold(holder)
        assert [await pull(puller, LAYERS[0]) for _ in range(2)] == ["wrong", "pulled"]
        _, second = await puller.records(2)
        assert second.providers == (f"{holder.host}:{PORT}",)


async def test_a_liar_who_is_right_when_looked_at_costs_two_attempts(tmp_path: Path) -> None:
    """Nobody can do better but upstream; after the second it is left to that."""
    network, asked = MemoryNetwork(), 0

    async def changing(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await exchange.respond(200, Headers(), IMAGE.blobs[LAYERS[0].digest])
        else:
            await lying()(exchange)

    async with (
        running_node(network, tmp_path, change=in_zone) as puller,
        fake_provider(network, KEYS, lying(), zone="z"),
        fake_provider(network, KEYS, changing),
    ):
        assert [await pull(puller, LAYERS[0]) for _ in range(3)] == ["wrong", "wrong", "upstream"]
        assert (await puller.records(3))[-1].reason == "thrown_away"


async def test_who_breaks_off_or_falls_silent_at_the_second_look_is_passed_over(tmp_path: Path) -> None:
    network = MemoryNetwork()

    async def silent(exchange: Exchange) -> None:
        await (await exchange.start(200, Headers(), LAYERS[0].size)).write(bytes(100_000))
        await trio.sleep(60)

    def impatient(settings: RunSettings) -> RunSettings:
        return replace(in_zone(settings), stall_timeout=0.5)

    async with (
        running_node(network, tmp_path / "1") as holder,
        running_node(network, tmp_path / "2", change=impatient) as puller,
        fake_provider(network, KEYS, lying(), zone="z"),
    ):
        assert await pull(puller, LAYERS[0]) == "wrong"
        async with (
            fake_provider(network, KEYS, lying(1_200_000), zone="z"),
            fake_provider(network, KEYS, silent, zone="z"),
        ):
            await hold(holder)
            assert await pull(puller, LAYERS[0]) == "pulled"


async def test_a_liar_that_stops_before_the_end_is_found_out_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream adds the rest, containerd throws all of it away and begins anew, half a minute later."""
    monkeypatch.setattr("peili.node.GiveUps", partial(GiveUps, seconds=0.0))
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1") as holder,
        running_node(network, tmp_path / "2", change=in_zone) as puller,
        fake_provider(network, KEYS, lying(1_000_000), zone="z"),
    ):
        assert await pull(puller, LAYERS[0]) == "cut"
        await hold(holder)
        assert await pull(puller, LAYERS[0]) == "pulled"


async def test_who_asks_without_writing_says_nothing_about_the_peers(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as holder, running_node(network, tmp_path / "2") as puller:
        await hold(holder)
        for _ in range(5):
            assert (await puller.get(blob(LAYERS[0]))).body == IMAGE.blobs[LAYERS[0].digest]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_layer_that_is_discarded_in_the_moment_of_its_commit_blames_nobody(
    tmp_path: Path, follow: bool
) -> None:
    """As containerd may do with discard_unpacked_layers."""
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1") as holder,
        running_node(
            network, tmp_path / "2", change=lambda settings: settings if follow else replace(settings, follow=None)
        ) as puller,
    ):
        await hold(holder)
        for layer in LAYERS:
            ingest = Ingest(puller.layout.directory, layer)
            ingest.write((await puller.get(blob(layer))).body)
            with trio.fail_after(10):
                while not puller.store._ingests.growth.watches:
                    await trio.sleep(0.001)
            ingest.commit()
            puller.layout.remove_blobs([layer.digest])
        assert {record.providers for record in await puller.records(3)} == {(f"{holder.host}:{PORT}",)}
        assert "peili_bodies_thrown_away_total 0.0" in puller.node.metrics.render().decode()


async def test_an_image_that_is_pulled_removed_and_pulled_again_blames_nobody(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as holder, running_node(network, tmp_path / "2") as puller:
        await hold(holder)
        for _ in range(3):
            assert await pull(puller, LAYERS[0]) == "pulled"
            puller.layout.remove_blobs([LAYERS[0].digest])
            with trio.fail_after(10):
                while puller.router.provides(KEYS[0]):
                    await trio.sleep(0.01)
