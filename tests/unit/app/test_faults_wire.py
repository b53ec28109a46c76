"""A holder whose connections end, reset, fall silent or crawl, at each place of an answer; another one goes on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image
from tests.fakes.nodes import fetch
from tests.fakes.processes import Cluster, Node, blob_target, cluster, keys_of, wait_until
from tests.fakes.wire import Asked, Ending, Fault, FaultyHolder, crawl, end, reset, silence

pytestmark = pytest.mark.slow

NAME = "registry.example/faults:wire"
IMAGE = build_image("wire", layer_sizes=(6_000_000,))
LAYER = IMAGE.layers[0].digest
CONTENT = IMAGE.blobs[LAYER]
PLACES = {"before the head": None, "start": 0, "middle": len(CONTENT) // 2, "near the end": len(CONTENT) - 1000}
ENDINGS: list[Ending] = [end, reset, silence, crawl]
STALL = 1.0  # seconds, --stall-timeout here
IN_FLIGHT = 2 << 20  # bytes, at most, that a holder had sent and that its reset made void
SLACK = 8.0  # seconds more that a busy machine may take


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


async def holders_of(made: Cluster, count: int, faults: list[Fault]) -> list[Asked]:
    """So many holders of the layer, of which the one that is asked next takes the next fault."""
    asked: list[Asked] = []
    holder = FaultyHolder({LAYER.hex: CONTENT}, faults, asked)
    for _ in range(count):
        await made.peer(keys_of(NAME, IMAGE), holder)
    return asked


async def test_a_holder_breaks_off_anywhere_and_another_one_goes_on(made: Cluster) -> None:
    """Each holder at most once: who failed lately is asked last."""
    [puller] = await made.start(1, "--stall-timeout", f"{STALL}s")
    faults: list[Fault] = []
    asked = await holders_of(made, len(ENDINGS) * len(PLACES) + 1, faults)
    await wait_until(lambda: _finds(puller), "the layer is found")
    before = puller.use()
    took: dict[str, float] = {}
    for ending in ENDINGS:
        for place, until in PLACES.items():
            case = f"{ending.__name__} {place}"
            faults.append(Fault(until, ending))
            asked.clear()
            started = time.perf_counter()
            answer = await fetch(puller.host, blob_target(NAME, LAYER))
            took[case] = time.perf_counter() - started
            assert not faults, f"nobody was asked: {case}"
            assert (answer.status, answer.complete, answer.body == CONTENT) == (200, True, True), case
            if until:  # another one went on at the byte, or, of one that crawls, a few bytes further
                offset, lost = asked[-1].start, IN_FLIGHT if ending is reset else 0
                assert until - lost <= offset <= until + (100 if ending is crawl else 0), (case, asked)
    assert max(took.values()) < STALL + SLACK, took
    await puller.wait_as_before(before)


async def test_several_holders_break_off_one_after_another(made: Cluster) -> None:
    """Each gives a piece, and nothing is asked for twice."""
    [puller] = await made.start(1, "--stall-timeout", f"{STALL}s")
    quarters = [len(CONTENT) * part // 4 for part in (1, 2, 3)]
    faults = [Fault(until, ending) for until, ending in zip(quarters, (reset, end, silence), strict=True)]
    asked = await holders_of(made, 4, faults)
    await wait_until(lambda: _finds(puller), "the layer is found")
    answer = await fetch(puller.host, blob_target(NAME, LAYER))
    assert (answer.complete, answer.body == CONTENT) == (True, True)
    starts = list(dict.fromkeys(one.start for one in asked))  # a slow one gets company, which asks for the same
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert quarters[0] - IN_FLIGHT <= starts[1] <= quarters[0], "the first one resets"
    assert starts[-2:] == quarters[1:]


async def test_with_the_only_holder_broken_the_body_ends_early_and_the_rest_is_left_to_upstream(
    made: Cluster,
) -> None:
    [puller] = await made.start(1, "--stall-timeout", f"{STALL}s")
    await holders_of(made, 1, [Fault(len(CONTENT) // 2, reset)])
    await wait_until(lambda: _finds(puller), "the layer is found")
    answer = await fetch(puller.host, blob_target(NAME, LAYER))
    assert answer.body == CONTENT[: len(answer.body)]
    assert not answer.complete
    retry = await fetch(puller.host, blob_target(NAME, LAYER), Range=f"bytes={len(answer.body)}-")
    assert retry.status == 404


async def test_a_hundred_pulls_through_holders_that_reset(made: Cluster) -> None:
    """Faults come in crowds: nothing is left of any."""
    [puller] = await made.start(1, "--stall-timeout", f"{STALL}s")
    faults: list[Fault] = []
    await holders_of(made, 5, faults)
    await wait_until(lambda: _finds(puller), "the layer is found")
    assert (await fetch(puller.host, blob_target(NAME, LAYER))).body == CONTENT
    before = puller.use()
    whole: list[bool] = []

    async def pull(number: int) -> None:
        faults.append(Fault(len(CONTENT) // 2, (reset, end, reset, end)[number % 4]))
        offset = 0
        for _ in range(4):  # what is missing is asked for again, as containerd does
            fields = {"Range": f"bytes={offset}-"} if offset else {}
            answer = await fetch(puller.host, blob_target(NAME, LAYER), **fields)
            if answer.status in (200, 206):
                assert answer.body == CONTENT[offset : offset + len(answer.body)]
                offset += len(answer.body)
            if offset == len(CONTENT) or answer.status == 404:  # then containerd goes upstream
                break
        whole.append(offset == len(CONTENT))

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(pull, number)
    assert len(whole) == 100
    await puller.wait_as_before(before)


async def _finds(puller: Node) -> bool:
    return (await fetch(puller.host, blob_target(NAME, LAYER), "HEAD")).status == 200
