"""1,000 slow transfers at once beside a fast one, through one node."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.asking import Asker
from benchmarks.bench import Bench
from benchmarks.crowd import crowd
from benchmarks.figure import Figure, Goal
from benchmarks.meter import Usage, cpu_seconds, usage
from benchmarks.peilis import Cluster

RATE = 10_000  # bytes a second that a slow client reads
SLOW = 20_000_000  # bytes of what they read
FAST = 500_000_000  # bytes
KEEPS = 0.5  # of its speed beside them; the slow clients need a part of the two cores themselves
HOLDERS = 4


def run(bench: Bench) -> Iterator[Figure]:
    """The first node relays all of it from four others."""
    count, size = bench.pick((1000, FAST), (50, FAST // 5))
    with Cluster(bench, "slow-transfers") as cluster:
        cluster.store().add("none", [1000])
        for number in range(HOLDERS):
            cluster.store().add(f"slow/{number}", [SLOW] * 2)
        cluster.stores[1].add("fast", [size])
        for _ in cluster.stores:
            cluster.node()
        cluster.start()
        cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
        node = cluster.nodes[0]
        fast = cluster.stores[1].images[-1].layers[0].path
        runs = bench.times(5, 2)
        before = usage(node.pid)
        with node.asker() as asker:
            alone = _fetch(asker, fast, size, runs)
            yield Figure("a fast relay alone", "MB/s", alone)
            slow = [layer.path for store in cluster.stores[1:] for layer in store.images[0].layers]
            with crowd(node, slow, count, RATE) as clients:
                while_slow = usage(node.pid)
                spent = cpu_seconds([node.pid])
                beside = _fetch(asker, fast, size, runs)
                spent = cpu_seconds([node.pid]) - spent
                begun, ended, _ = clients.progress()
                after = usage(node.pid)
        ratio = tuple(value / statistics.median(alone) for value in beside)
        yield Figure(f"the same beside {count} at 10 KB/s", "MB/s", beside, direct=alone)
        yield Figure("share of its speed that it keeps", "", ratio, Goal(KEEPS, True))
        yield Figure("slow transfers that ended early", "", (float(ended + count - begun),), Goal(0))
        yield from _use(before, while_slow, after)
        yield Figure("CPU for the fast one beside them", "s/GB", (spent / (size * runs) * 1e9,))


def _use(before: Usage, during: Usage, after: Usage) -> Iterator[Figure]:
    yield Figure("resident memory before them", "MB", (before.resident,))
    yield Figure("resident memory beside them", "MB", (during.resident, after.resident))
    yield Figure("threads beside them", "", (during.threads,), Goal(50))
    yield Figure("descriptors beside them", "", (during.descriptors,))
    yield Figure("pipes' ends among those", "", (during.pipes,))


def _fetch(asker: Asker, path: str, size: int, runs: int) -> tuple[float, ...]:
    speeds = []
    for _ in range(runs):
        answer = asker.get(path)
        assert (answer.status, answer.size) == (200, size), answer
        speeds.append(size / answer.whole / 1e6)
    return tuple(speeds)
