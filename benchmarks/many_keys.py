"""A node with 1,000 images, which are 10,000 keys, in a cluster of 21: start, memory, idle CPU, transfers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks import real_store
from benchmarks.bench import Bench
from benchmarks.crowd import crowd
from benchmarks.figure import Figure, Goal
from benchmarks.meter import idle_share, usage
from benchmarks.peilis import Cluster, Peili
from tests.integration.lab.containerd import Containerd
from tests.integration.lab.waiting import wait_until

NODES = 21  # so that every node keeps the records of all others (k is 20)
IMAGES = 1000  # of a node
LAYERS = 7  # of an image: with its tag, manifest and config, ten keys
LAYER = 512  # bytes
LARGE = 20_000_000  # bytes: what is in flight
RATE = 10_000  # bytes a second that a slow client reads
START, RESIDENT, CPU = 2.0, 100.0, 2.0  # s, MB, percent of a core


def run(bench: Bench) -> Iterator[Figure]:
    """The first node has a real containerd, where root is there."""
    with Cluster(bench, "many-keys") as cluster, real_store.containerd(bench) as found:
        nodes, images = bench.pick((NODES, IMAGES), (3, 50))
        _fill(bench, cluster, nodes, images)
        node = _nodes(bench, cluster, found)
        cluster.start()
        kind = "layout" if found is None else f"containerd {found.version}"
        started = time.monotonic()
        cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
        yield Figure("from ready to all keys known to all, all nodes new", "s", (time.monotonic() - started,))
        yield from _memory(node, cluster, kind)
        seconds, rounds = bench.pick((60.0, 3), (5.0, 1))
        shares = idle_share(bench, node.pid, seconds, rounds)
        yield Figure("CPU of an idle node with them", "% of a core", shares, Goal(CPU), note=kind)
        yield from _in_flight(bench, node, cluster)
        yield from _starts(bench, node, kind, images)


def _fill(bench: Bench, cluster: Cluster, nodes: int, images: int) -> None:
    for number in range(nodes):
        store = cluster.store()
        for image in range(images):
            store.add(f"many/{number}/{image}", [LAYER] * LAYERS)
        if number in (0, 1):
            store.add(f"large/{number}", [LARGE] * 4)
        if number % 5 == 4:
            bench.say(f"{number + 1} stores of {images} images are written")


def _nodes(bench: Bench, cluster: Cluster, found: Containerd | None) -> Peili:
    if found is None:
        node = cluster.node()
    else:
        bench.say("containerd imports the first store")
        real_store.import_store(found, cluster.stores[0])
        node = cluster.node(real_store.options(found))
    for _ in cluster.stores[1:]:
        cluster.node()
    return node


def _memory(node: Peili, cluster: Cluster, kind: str) -> Iterator[Figure]:
    used = usage(node.pid)
    note = f"{kind}; others: " + ", ".join(f"{usage(peer.pid).resident:.0f}" for peer in cluster.nodes[1:4])
    yield Figure("keys of its own", "", (node.metric("peili_provided_keys"),))
    yield Figure("records of others", "", (node.metric("peili_provider_records"),))
    yield Figure("resident memory with them", "MB", (used.resident,), Goal(RESIDENT), note=note)
    yield Figure("highest resident memory so far", "MB", (used.highest,))


def _in_flight(bench: Bench, node: Peili, cluster: Cluster) -> Iterator[Figure]:
    """100 clients read slowly, half of them what the node itself has, half what it relays from a peer."""
    count = bench.pick(100, 10)
    paths = [path for pair in zip(_large(cluster, 0), _large(cluster, 1), strict=True) for path in pair]
    with crowd(node, paths, count, RATE):
        flowing = usage(node.pid)
        yield _memory_figure(f"resident memory, {count} transfers at 10 KB/s", flowing.resident)
        yield Figure("its descriptors then", "", (flowing.descriptors,))
        yield Figure("its threads then", "", (flowing.threads,))
    with crowd(node, paths, count, RATE, stopped=count // 2):
        yield _memory_figure(
            f"resident memory, {count} transfers, half of the readers stopped", usage(node.pid).resident
        )


def _large(cluster: Cluster, number: int) -> list[str]:
    return [content.path for content in cluster.stores[number].images[-1].layers]


def _memory_figure(name: str, value: float) -> Figure:
    return Figure(name, "MB", (value,), Goal(RESIDENT))


def _starts(bench: Bench, node: Peili, kind: str, images: int) -> Iterator[Figure]:
    """Start to ready, in a cluster that knows this node's keys already."""
    times = []
    for _ in range(bench.times(5, 2)):
        node.stop()
        started = time.monotonic()
        node.start()
        wait_until(node.ready, "ready again", 60.0)
        times.append(time.monotonic() - started)
        bench.say(f"ready after {times[-1]:.2f} s")
    yield Figure(f"start to ready with {images:,} images", "s", tuple(times), Goal(START), note=kind)
