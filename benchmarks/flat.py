"""Whether memory stays flat over many requests of all kinds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from benchmarks.meter import Usage, usage
from benchmarks.peilis import Cluster, Peili
from benchmarks.writing import pull_blob

FLAT = 1.02  # the last by the first, after warming up: what noise makes
SIZE = 20_000  # bytes
STEPS = 5
CLIENTS = 4


def run(bench: Bench) -> Iterator[Figure]:
    """Three nodes; one is asked for what it has, what a peer has, what nobody has, and for tags."""
    requests = bench.pick(100_000, 2_000)
    with Cluster(bench, "flat") as cluster:
        for number in range(3):
            cluster.store().add(f"flat/{number}", [SIZE] * 50)
        for _ in cluster.stores:
            cluster.node()
        cluster.start()
        cluster.wait_shared([store.images[0].keys for store in cluster.stores])
        node = cluster.nodes[0]
        _ask_together(node, cluster, requests // 10)
        seen = [usage(node.pid)]
        for step in range(STEPS):
            _ask_together(node, cluster, requests // STEPS)
            seen.append(usage(node.pid))
            bench.say(f"after {requests // STEPS * (step + 1)} requests: {seen[-1].resident:.1f} MB")
        yield from _figures(requests, seen)


def _ask_together(node: Peili, cluster: Cluster, count: int) -> None:
    """With several connections at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(_ask, node, cluster, number, count // CLIENTS) for number in range(CLIENTS)]:
            done.result()


def _ask(node: Peili, cluster: Cluster, number: int, count: int) -> None:
    own, *others = cluster.stores
    paths = [layer.path for layer in own.images[0].layers]
    # A thread has blobs of the peers of its own, as containerd never pulls one twice at a time.
    theirs = [layer for store in others for layer in store.images[0].layers][number::CLIENTS]
    tags = [f"flat/{n}/manifests/1" for n in range(3)]
    with node.asker() as asker:
        for _ in range(count):
            match random.randrange(10):
                case 0:
                    asker.get(f"flat/1/blobs/sha256:{os.urandom(32).hex()}")
                case 1:
                    asker.get(random.choice(tags), method="HEAD")
                case 2 | 3:
                    blob = random.choice(theirs)
                    pull_blob(asker, own, blob)
                    own.path(blob.digest).unlink(missing_ok=True)  # collected as garbage
                case _:
                    assert asker.get(random.choice(paths)).status == 200


def _figures(requests: int, seen: list[Usage]) -> Iterator[Figure]:
    growth = seen[-1].resident / seen[0].resident
    note = f"after {requests // 10} requests to warm up"
    yield Figure(f"resident memory after {requests:,} requests by before", "", (growth,), Goal(FLAT), note=note)
    yield Figure("resident memory on the way", "MB", tuple(used.resident for used in seen))
    yield Figure("descriptors at the end by before", "", (seen[-1].descriptors / seen[0].descriptors,))
