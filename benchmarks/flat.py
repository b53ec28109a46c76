"""Whether memory stays flat over many requests of all kinds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.asking import Asker
from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from benchmarks.meter import Usage, usage
from benchmarks.peilis import Cluster, Peili
from benchmarks.stores import Content, Store
from benchmarks.writing import pull_blob
from tests.integration.lab.waiting import wait_until

FLAT = 1.02  # the last by the first, after warming up: what noise makes
SIZE = 20_000  # bytes: read whole and hashed before one is passed on
LARGE = 2_000_000  # bytes, of every 20th: relayed by the kernel
GIVEN = 99.0  # percent: what is left to upstream is no request of its kind
STEPS = 5
CLIENTS = 4


def run(bench: Bench) -> Iterator[Figure]:
    """Three nodes; one is asked for what it has, what a peer has, what nobody has, and for tags."""
    requests = bench.pick(100_000, 2_000)
    with Cluster(bench, "flat") as cluster:
        for number in range(3):
            cluster.store().add(f"flat/{number}", [SIZE] * 50)
            cluster.stores[-1].add(f"large/{number}", [LARGE] * 6)
        for _ in cluster.stores:
            cluster.node()
        cluster.start()
        cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
        node = cluster.nodes[0]
        given = _ask_together(node, cluster, requests // 10)
        seen = [usage(node.pid)]
        for step in range(STEPS):
            given += _ask_together(node, cluster, requests // STEPS)
            seen.append(usage(node.pid))
            bench.say(f"after {requests // STEPS * (step + 1)} requests: {seen[-1].resident:.1f} MB")
        yield Figure("blobs of peers that they gave", "%", (sum(given) / len(given) * 100,), Goal(GIVEN, True))
        yield from _figures(requests, seen)


def _ask_together(node: Peili, cluster: Cluster, count: int) -> list[bool]:
    """With several connections at once; for each blob of a peer, whether it gave it."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(_ask, node, cluster, number, count // CLIENTS) for number in range(CLIENTS)]
        return [given for done in asking for given in done.result()]


def _ask(node: Peili, cluster: Cluster, number: int, count: int) -> list[bool]:
    given = []
    own, *others = cluster.stores
    paths = [layer.path for layer in own.images[0].layers]
    # A thread has blobs of the peers of its own, as containerd never pulls one twice at a time.
    small, large = ([b for store in others for b in store.images[n].layers][number::CLIENTS] for n in (0, 1))
    tags = [f"flat/{n}/manifests/1" for n in range(3)]
    with node.asker() as asker:
        for _ in range(count):
            match random.randrange(20):
                case 0 | 1:
                    asker.get(f"flat/1/blobs/sha256:{os.urandom(32).hex()}")
                case 2 | 3:
                    asker.get(random.choice(tags), method="HEAD")
                case 4 | 5 | 6 | 7 as drawn:
                    given.append(_pull(asker, own, random.choice(large if drawn == 7 else small)))
                case _:
                    assert asker.get(random.choice(paths)).status == 200
    return given


def _pull(asker: Asker, own: Store, blob: Content) -> bool:
    """Pull a blob, and collect it as garbage once the node knows that it is there; whether somebody gave it.

    In the moment after its last byte the node cannot tell yet whether it was committed or thrown away; it would not
    ask its holder for a while.
    """
    if pull_blob(asker, own, blob).status != 200:
        return False
    wait_until(lambda: asker.get(blob.path, method="HEAD", peer=True).status == 200, f"{blob.digest} is offered")
    own.path(blob.digest).unlink()
    return True


def _figures(requests: int, seen: list[Usage]) -> Iterator[Figure]:
    growth = seen[-1].resident / seen[0].resident
    note = f"after {requests // 10} requests to warm up"
    yield Figure(f"resident memory after {requests:,} requests by before", "", (growth,), Goal(FLAT), note=note)
    yield Figure("resident memory on the way", "MB", tuple(used.resident for used in seen))
    yield Figure("descriptors at the end by before", "", (seen[-1].descriptors / seen[0].descriptors,))
