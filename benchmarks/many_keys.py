"""A node with 1,000 images, which are 10,000 keys, in a cluster of 21: start, memory, idle CPU, transfers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from benchmarks import real_store
from benchmarks.bench import Bench
from benchmarks.crowd import crowd
from benchmarks.figure import Figure, Goal
from benchmarks.meter import idle_share, reset_highest, settled, usage
from benchmarks.peilis import UNLIMITED, Cluster, Peili
from benchmarks.stores import Content
from peili.kademlia.republish import REPUBLISH_INTERVAL
from tests.integration.lab.containerd import Containerd
from tests.integration.lab.waiting import NotInTime, wait_until

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
        transfers = bench.pick(100, 10)
        _fill(bench, cluster, nodes, images, transfers)
        node = _nodes(bench, cluster, found)
        cluster.start()
        kind = "layout" if found is None else f"containerd {found.version}"
        started = time.monotonic()
        cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
        told = time.monotonic()
        yield Figure("from ready to all keys known to all, all nodes new", "s", (told - started,))
        yield from _memory(node, cluster, kind)
        yield from _in_flight(node, cluster, transfers)
        yield _idle(bench, node, kind, told)
        yield from _starts(bench, node, kind, images)


def _fill(bench: Bench, cluster: Cluster, nodes: int, images: int, transfers: int) -> None:
    """Small images for all nodes; a large blob for the first one, and one for each transfer from another node."""
    for number in range(nodes):
        store = cluster.store()
        for image in range(images):
            store.add(f"many/{number}/{image}", [LAYER] * LAYERS)
        if number % 5 == 4:
            bench.say(f"{number + 1} stores of {images} images are written")
    cluster.stores[0].add("large/0", [LARGE])
    cluster.stores[1].add_hollow("large/1", [LARGE] * transfers)


def _nodes(bench: Bench, cluster: Cluster, found: Containerd | None) -> Peili:
    if found is None:
        node = cluster.node()
    else:
        bench.say("containerd imports the first store")
        real_store.import_store(found, cluster.stores[0])
        node = cluster.node(real_store.options(found))
    for _ in cluster.stores[1:]:
        cluster.node(options=UNLIMITED)
    return node


def _memory(node: Peili, cluster: Cluster, kind: str) -> Iterator[Figure]:
    used = usage(node.pid)
    note = f"{kind}; others: " + ", ".join(f"{usage(peer.pid).resident:.0f}" for peer in cluster.nodes[1:4])
    yield Figure("keys of its own", "", (node.metric("peili_provided_keys"),))
    yield Figure("records of others", "", (node.metric("peili_provider_records"),))
    yield Figure("resident memory with them", "MB", (used.resident,), Goal(RESIDENT), note=note)
    yield Figure("highest resident memory so far", "MB", (used.highest,))


def _in_flight(node: Peili, cluster: Cluster, count: int) -> Iterator[Figure]:
    """100 clients read slowly, half of them what the node itself has, half what it relays from a peer.

    Then 100 others, with other blobs: what a client left in the middle is left to upstream for a while.
    """
    [own], others = (store.images[-1].layers for store in cluster.stores[:2])
    blobs = [blob for other in others for blob in (own, other)]
    half = len(blobs) // 2
    yield from _beside(node, blobs[:half], count, f"{count} transfers at 10 KB/s")
    name = f"{count} transfers, half of the readers stopped"
    yield from _beside(node, blobs[half:], count, name, stopped=count // 2)


def _beside(node: Peili, blobs: Sequence[Content], count: int, name: str, stopped: int = 0) -> Iterator[Figure]:
    """The node when it has got used to these clients; its highest memory is that of this time."""
    reset_highest(node.pid)
    with crowd(node, blobs, count, RATE, stopped=stopped) as clients:
        clients.wait_flowing()
        used = settled(node.pid)
        flowing = clients.in_flight()
    yield Figure(f"highest resident memory, {name}", "MB", (used.highest,), Goal(RESIDENT))
    yield Figure("of these, still in flight then", "", (flowing,), Goal(count, True))
    yield Figure("its descriptors then", "", (used.descriptors,))
    yield Figure("its threads then", "", (used.threads,))


def _idle(bench: Bench, node: Peili, kind: str, told: float) -> Figure:
    """In the steady state: what was told at once falls due anew from half an interval on, a part every second."""
    wait, seconds = bench.pick((REPUBLISH_INTERVAL / 2, REPUBLISH_INTERVAL / 2), (0.0, 5.0))
    while (left := told + wait - time.monotonic()) > 0:
        bench.say(f"{left:.0f} s until keys are told anew")
        time.sleep(min(left, 60.0))
    note = f"{kind}; one window of {seconds:.0f} s, from {time.monotonic() - told:.0f} s after all keys were told"
    shares = idle_share(bench, node.pid, seconds)
    return Figure("CPU of an idle node with them", "% of a core", shares, Goal(CPU), note=note)


def _starts(bench: Bench, node: Peili, kind: str, images: int) -> Iterator[Figure]:
    """Start to ready, in a cluster that knows this node's keys already."""
    times = []
    for _ in range(bench.times(5, 2)):
        node.stop()
        started = time.monotonic()
        node.start()
        try:
            wait_until(node.ready, "ready again", 60.0)
        except NotInTime:
            bench.say(node.says())
            raise
        times.append(time.monotonic() - started)
        bench.say(f"ready after {times[-1]:.2f} s")
    yield Figure(f"start to ready with {images:,} images", "s", tuple(times), Goal(START), note=kind)
