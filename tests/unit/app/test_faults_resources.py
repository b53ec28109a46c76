"""Too few descriptors, pipes that cannot grow, a full disk, clocks that jump."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from peili.demo.images import build_image
from peili.http.errors import HttpError
from peili.libp2p import certificate, upgrade
from peili.oci.key import Key
from peili.routing.memory import MemoryNetwork
from tests.fakes.nodes import PORT, fetch, running_node
from tests.fakes.processes import PATIENCE, Cluster, Node, blob_target, cluster, holds, wait_offered, wait_until
from tests.fakes.routers import find, open_cluster, until

NAME = "registry.example/faults:resources"
IMAGE = build_image("resources", layer_sizes=(6_000_000, 3_000_000))
LAYER = IMAGE.layers[0]
CONTENT = IMAGE.blobs[LAYER.digest]
FEW = 24  # descriptors above those in use


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


async def _right(host: str, results: list[str]) -> None:
    """One client: what came is right, or there was no answer, and then containerd goes upstream."""
    try:
        answer = await fetch(host, blob_target(NAME, LAYER.digest))
    except (HttpError, trio.TooSlowError):
        results.append("no answer")
        return
    if answer.status == 200:
        assert answer.body == CONTENT[: len(answer.body)]
        results.append("whole" if answer.complete else "cut")
    else:
        assert answer.status in (404, 503), answer
        results.append("none")


@pytest.mark.slow
async def test_out_of_descriptors(made: Cluster) -> None:
    """With room for 24 more, 60 clients ask at once, of the puller and of the holder; then there is room again."""
    holder, puller = await made.start(2, images=[(NAME, IMAGE)])
    puller.layout.remove(NAME)
    puller.layout.remove_blobs(list(IMAGE.blobs))
    await wait_until(lambda: _offers(puller, 0), "nothing is left")
    await wait_offered(puller, NAME, IMAGE)
    assert (await fetch(puller.host, blob_target(NAME, LAYER.digest))).body == CONTENT
    for short in (puller, holder):
        before = short.use()
        short.limit_descriptors(before.descriptors + FEW)
        results: list[str] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(_right, puller.host, results)
        assert len(results) == 60
        assert results.count("whole") > 0, results
        short.limit_descriptors(4096)
        await wait_until(lambda: _whole(puller), "served again")
        await short.wait_as_before(before)


@pytest.mark.slow
async def test_out_of_descriptors_a_client_is_told_so_and_does_not_wait(made: Cluster) -> None:
    """Whoever holds the descriptors may hold them for minutes, and containerd has an upstream."""
    [node] = await made.start(1)
    before = node.use()
    node.limit_descriptors(before.descriptors + FEW)
    idle = [await trio.open_tcp_stream(node.host, PORT) for _ in range(2 * FEW)]
    try:
        for _ in range(3):
            with trio.fail_after(5):
                with suppress(HttpError):  # closed without an answer
                    assert (await fetch(node.host, blob_target(NAME, LAYER.digest))).status == 503
    finally:
        for stream in idle:
            await stream.aclose()
        node.limit_descriptors(4096)
    await wait_until(lambda: _misses(node), "answered again")
    await node.wait_as_before(before)


async def _misses(node: Node) -> bool:
    return (await fetch(node.host, blob_target(NAME, LAYER.digest))).status == 404


async def _offers(node: Node, count: int) -> bool:
    return bool((await node.status())["router"]["provided_keys"] == count)


async def _whole(puller: Node) -> bool:
    return (await fetch(puller.host, blob_target(NAME, LAYER.digest))).body == CONTENT


@pytest.mark.slow
async def test_a_full_disk_is_nothing_to_us(made: Cluster) -> None:
    """Nothing is written while a node serves: what it opened for writing is its log and nothing else."""
    holder, puller = await made.start(2, images=[(NAME, IMAGE)])
    await wait_offered(puller, NAME, IMAGE)
    for node in (holder, puller):
        opened = []
        for number in os.listdir(f"/proc/{node.pid}/fd"):  # noqa: PTH208
            path = Path(f"/proc/{node.pid}/fd/{number}")
            try:
                target, flags = str(path.readlink()), Path(f"/proc/{node.pid}/fdinfo/{number}").read_text()
            except OSError:
                continue  # closed meanwhile
            writable = int(flags.split("flags:")[1].split()[0], 8) & os.O_ACCMODE != os.O_RDONLY
            if writable and target.startswith("/") and not target.startswith("/dev/"):
                opened.append(target)
        assert set(opened) <= {str(node.log)}


@pytest.mark.slow
async def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, made: Cluster) -> None:
    """/dev/full says ENOSPC to each write, as a full disk does."""
    holder, puller = Node(tmp_path, None), Node(tmp_path, None)
    puller._first = holder.host
    for node in (holder, puller):
        node.log = Path("/dev/full")
        made.nodes.append(node)
    holder.layout.add(NAME, IMAGE)
    for node in (holder, puller):
        await node.start()
    for node in (holder, puller):
        await node.wait_ready()
    await wait_offered(puller, NAME, IMAGE)
    await made.pull(puller, NAME)
    assert holds(puller, IMAGE)


@pytest.mark.slow
async def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path, made: Cluster) -> None:
    """A container's standard error while its runtime is away: a full pipe."""
    node = Node(tmp_path, None, ["--log-level", "debug"])
    made.nodes.append(node)
    node.log = tmp_path / "fifo"
    os.mkfifo(node.log)
    reader = os.open(node.log, os.O_RDWR | os.O_NONBLOCK)  # as the shim, which holds both ends and waits
    try:
        await node.start()
        await node.wait_ready()
        for number in range(500):
            assert (await fetch(node.host, f"/v2/a/manifests/{number}?ns=registry.example")).status == 404
        assert await node.readiness() == 200
        assert len(os.read(reader, 1 << 20)) > 40_000  # it had been full
    finally:
        os.close(reader)


async def test_pipes_at_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the user's share of pipe pages a pipe cannot grow (pipe(7)): bytes are copied then."""
    real = fcntl.fcntl

    def refuse(fileno: Any, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_SETPIPE_SZ and argument > 8192:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if command == fcntl.F_GETPIPE_SZ:
            return 8192
        return real(fileno, command, argument)

    monkeypatch.setattr("fcntl.fcntl", refuse)
    await _pull_in_process(tmp_path)


async def test_no_pipes_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> tuple[int, int]:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr("os.pipe2", refuse)
    await _pull_in_process(tmp_path)


async def _pull_in_process(tmp_path: Path, meanwhile: Any = None) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        one.layout.add(NAME, IMAGE)
        await one.wait_offered(Key(str(LAYER.digest)))
        for _ in range(3):
            answer = await two.get(blob_target(NAME, LAYER.digest))
            assert (answer.complete, answer.body == CONTENT) == (True, True)
            if meanwhile is not None:
                meanwhile()


@pytest.mark.parametrize("years", [-30, 30])
async def test_the_clock_jumps_while_a_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """Everything that waits or expires goes by the monotonic clock (trio's); records of requests show the time."""
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])

    def jump() -> None:
        offset[0] += years * 365 * 86400.0

    await _pull_in_process(tmp_path, jump)


class _Clock(datetime):
    """A clock that is off."""

    off = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz or UTC) + cls.off


@pytest.mark.parametrize("days", [-1, 365])
async def test_clocks_jump_in_a_running_cluster_of_routers(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Certificates are looked at when a connection begins: those that are there stay, new ones come as before."""
    async with open_cluster() as routers:
        one, two = (await routers.start()).router, (await routers.start()).router
        key = Key("sha256:" + "0" * 64)
        await one.provide([key])
        with trio.fail_after(10):
            await until(lambda: two.statistics().records > 0)
        monkeypatch.setattr(_Clock, "off", timedelta(days=days))
        monkeypatch.setattr(upgrade, "datetime", _Clock)
        monkeypatch.setattr(certificate, "datetime", _Clock)
        assert [provider.peer_id for provider in await find(two, key)] == [one.statistics().peer_id]
        third = (await routers.start()).router
        with trio.fail_after(15):
            while not await find(third, key):
                await trio.sleep(0.05)
