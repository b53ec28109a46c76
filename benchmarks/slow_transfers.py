"""1,000 slow transfers at once beside a fast one, through one node."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

from benchmarks.asking import Asker
from benchmarks.bench import Bench
from benchmarks.crowd import Progress, crowd
from benchmarks.figure import Figure, Goal
from benchmarks.meter import Usage, cpu_seconds, descriptor_limit, idle_share, reset_highest, settled, usage
from benchmarks.peilis import UNLIMITED, Cluster
from benchmarks.stores import Content
from peili.http.stages import PIPES

RATE = 10_000  # bytes a second that a slow client reads
SLOW = 20_000_000  # bytes of what they read
FAST = 500_000_000  # bytes
WINDOW = 20.0  # seconds of fast ones, one after another: what a slow one gets meanwhile is measured, too
KEEPS = 0.5  # of its speed beside them; the slow clients need a part of the two cores themselves
SLOW_KEEPS = 0.9  # of their rate
HOLDERS = 4  # of what the slow ones read; the fast one's holder is another, so that it is the node that is shared
RESIDENT, THREADS, ENDS = 100.0, 50, 2 * PIPES + 8  # MB; the last: of pipes, some for other ends than relaying


def run(bench: Bench) -> Iterator[Figure]:
    """The first node relays all of it from five others, which send to one address as much as it asks for."""
    count, size = bench.pick((1000, FAST), (200, FAST // 5))
    with Cluster(bench, "slow-transfers") as cluster:
        fast, slow = _fill(cluster, count, size)
        node = cluster.nodes[0]
        before = usage(node.pid)
        with node.asker() as asker:
            alone = _fetch(asker, fast, size, bench.pick(5.0, 0.5))
            yield Figure("a fast relay alone", "MB/s", alone)
            reset_highest(node.pid)
            with crowd(node, slow, count, RATE, store=cluster.stores[0]) as clients:
                clients.wait_flowing()
                during = settled(node.pid)
                shares = idle_share(bench, node.pid, bench.pick(10.0, 3.0))
                yield Figure("CPU of the node for the slow ones alone", "% of a core", shares)
                flowing = [clients.in_flight()]
                first, spent = clients.progress(), cpu_seconds([node.pid])
                beside = _fetch(asker, fast, size, bench.pick(WINDOW, 5.0))
                last, spent = clients.progress(), cpu_seconds([node.pid]) - spent
                after = usage(node.pid)
                flowing.append(clients.in_flight())
        ratio = tuple(value / statistics.median(alone) for value in beside)
        yield Figure(f"the same beside {count} at 10 KB/s", "MB/s", beside, direct=alone)
        yield Figure("share of its speed that it keeps", "", ratio, Goal(KEEPS, True))
        yield Figure("slow transfers in flight", "", tuple(flowing), Goal(count, True), judge_worst=True)
        yield from _slow_ones(count, first, last)
        yield from _use(before, [during, after], descriptor_limit(node.pid))
        yield Figure("CPU for the fast one beside them", "s/GB", (spent / (size * len(beside)) * 1e9,))


def _fill(cluster: Cluster, count: int, size: int) -> tuple[str, list[Content]]:
    """The fast one's path, and a blob for each of the slow ones."""
    cluster.store().add("none", [1000])
    for number in range(HOLDERS):
        cluster.store().add_hollow(f"slow/{number}", [SLOW] * (count // HOLDERS))
    cluster.store().add("fast", [size])
    for _ in cluster.stores:
        cluster.node(options=UNLIMITED)
    cluster.start()
    cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
    [fast] = cluster.stores[-1].layers
    return fast.path, [layer for store in cluster.stores[1:-1] for layer in store.layers]


def _slow_ones(count: int, first: Progress, last: Progress) -> Iterator[Figure]:
    """Whether they were all there, and got what they read, while the fast one ran."""
    seconds = last.at - first.at
    rates = ((last.read - first.read) / count / seconds, (last.least - first.least) / seconds)
    floor = Goal(RATE * SLOW_KEEPS / 1e3, True)
    yield Figure("slow ones refused, or ended early", "", (float(last.refused + last.ended),), Goal(0))
    yield Figure("what a slow one still gets, on average", "KB/s", (rates[0] / 1e3,), floor)
    yield Figure("what the slowest of them gets", "KB/s", (rates[1] / 1e3,), note=f"in {seconds:.0f} s")


def _use(before: Usage, beside: Sequence[Usage], limit: int) -> Iterator[Figure]:
    yield Figure("resident memory before them", "MB", (before.resident,))
    highest = max(used.highest for used in beside)
    yield Figure("highest resident memory beside them", "MB", (highest,), Goal(RESIDENT))
    yield _each("threads beside them", [used.threads for used in beside], THREADS)
    yield _each("descriptors beside them", [used.descriptors for used in beside], limit - 1)
    yield _each("pipes' ends among those", [used.pipes for used in beside], ENDS)


def _each(name: str, values: Sequence[int], limit: int) -> Figure:
    return Figure(name, "", tuple(map(float, values)), Goal(limit), judge_worst=True)


def _fetch(asker: Asker, path: str, size: int, seconds: float) -> tuple[float, ...]:
    """Again and again for so long."""
    speeds: list[float] = []
    end = time.monotonic() + seconds
    while not speeds or time.monotonic() < end:
        answer = asker.get(path)
        assert (answer.status, answer.size) == (200, size), answer
        speeds.append(size / answer.whole / 1e6)
    return tuple(speeds)
