"""First byte: of what a peer has, of what the node itself has, of what nobody has; with nodes failing as well."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence

from benchmarks.asking import Asker
from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal, of_many
from benchmarks.peilis import Cluster
from benchmarks.stores import Content, Store
from benchmarks.writing import pull_blob

SMALL = 100_000  # bytes: read whole and hashed before one is passed on
LARGE = 4_000_000  # bytes: relayed by the kernel
LAYER = 20_000_000  # bytes: a miss that others may wait for, because this node fetches it now
PEER_P50, PEER_P99, LOCAL_P50, MISS_P50 = 3.0, 15.0, 2.0, 5.0  # ms
MISS_WHILE_FAILING = 50.0  # ms, the slowest


def run(bench: Bench) -> Iterator[Figure]:
    """Ten nodes; the first one is asked for every blob once, by one client on one connection."""
    count = bench.pick(10, 6)
    with Cluster(bench, "latency") as cluster:
        _fill(cluster, count, bench.pick(60, 10), bench.pick(12, 3))
        asked = cluster.nodes[0]
        cluster.start()
        cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
        with asked.asker() as asker:
            yield from _whole(bench, cluster, asker)
            yield from _failing(bench, cluster, asker, bench.pick(3, 2))


def _fill(cluster: Cluster, count: int, small: int, large: int) -> None:
    """Each node has blobs of its own, small and large ones, and small ones that the node opposite has as well."""
    for number in range(count):
        store = cluster.store()
        store.add(f"small/{number}", [SMALL] * small)
        store.add(f"large/{number}", [LARGE] * large)
        store.add(f"shared/{number}", [SMALL] * small)
    for number, store in enumerate(cluster.stores):
        cluster.stores[(number + count // 2) % count].adopt(store, store.images[2])
    for _ in range(count):
        cluster.node()


def _whole(bench: Bench, cluster: Cluster, asker: Asker) -> Iterator[Figure]:
    """All nodes are well."""
    own, others = cluster.stores[0], cluster.stores[1:]
    small = [layer for store in others for layer in store.images[0].layers]
    large = [layer for store in others for layer in store.images[1].layers]
    direct = _direct(cluster, small)
    yield Figure("the same small blobs asked of their holder, p50", "ms", tuple(direct))
    yield from of_many("small blob of a peer", "ms", _pull(asker, own, small), p50=PEER_P50, p99=PEER_P99)
    yield from of_many("large blob of a peer", "ms", _pull(asker, own, large), p50=PEER_P50, p99=PEER_P99)
    local = [*own.images[0].layers] * bench.pick(5, 2)
    yield from of_many("blob of the local store", "ms", _local(asker, local), p50=LOCAL_P50)
    tags = [f"{image.name.split('/', 1)[1].replace(':', '/manifests/')}" for s in others for image in s.images[:2]]
    heads = [asker.get(tag, method="HEAD") for tag in tags]
    assert all(answer.status == 200 for answer in heads), heads
    yield Figure("HEAD of a peer's tag", "ms", tuple(answer.first_byte * 1e3 for answer in heads))
    misses = bench.pick(500, 50)
    yield from of_many("digest that nobody has", "ms", _miss(asker, misses, own), p50=MISS_P50)
    large_misses = _miss(asker, misses, own, size=LAYER)
    yield from of_many(f"the same of {LAYER // 1_000_000} MB", "ms", large_misses, p50=MISS_P50)
    yield from of_many("the same for who writes nothing", "ms", _miss(asker, misses), p50=MISS_P50)


def _failing(bench: Bench, cluster: Cluster, asker: Asker, count: int) -> Iterator[Figure]:
    """The last nodes fail, one killed and the others frozen, and the questions begin at once."""
    killed, frozen = cluster.nodes[-1], cluster.nodes[-count:-1]
    shared = [layer for store in cluster.stores[-count:] for layer in store.images[2].layers]
    random.shuffle(shared)
    for node in frozen:
        node.freeze(True)
    killed.kill()
    own = cluster.stores[0]
    misses = _miss(asker, bench.pick(300, 30), own)
    name = f"digest that nobody has, {count} nodes failing"
    yield Figure(f"{name}, p50", "ms", tuple(misses))
    note = f"of {len(misses)}, from the moment of the failure on"
    yield Figure(f"{name}, slowest", "ms", (max(misses),), Goal(MISS_WHILE_FAILING), note=note)
    answers = [pull_blob(asker, own, content) for content in shared]
    found = [answer.first_byte * 1e3 for answer in answers if answer.status == 200]
    yield Figure("blobs found whose other holder fails", "%", (len(found) / len(answers) * 100,), Goal(100, True))
    if found:
        yield from of_many("blob whose other holder fails", "ms", found)
    for node in frozen:
        node.freeze(False)


def _local(asker: Asker, blobs: Sequence[Content]) -> list[float]:
    """Milliseconds until the first byte of what the node itself has."""
    answers = [asker.get(blob.path) for blob in blobs]
    assert all(answer.status == 200 for answer in answers)
    return [answer.first_byte * 1e3 for answer in answers]


def _direct(cluster: Cluster, blobs: Sequence[Content]) -> list[float]:
    """What the holders need when they are asked at once: the floor."""
    times = []
    for store, node in zip(cluster.stores[1:], cluster.nodes[1:], strict=True):
        held = [layer for layer in store.images[0].layers if layer in blobs]
        with node.asker() as asker:
            times += [asker.get(layer.path, peer=True).first_byte * 1e3 for layer in held]
    return times


def _pull(asker: Asker, store: Store, blobs: Sequence[Content]) -> list[float]:
    """Milliseconds until the first byte of each, in random order; each is written as containerd writes it."""
    times = []
    for blob in random.sample(blobs, len(blobs)):
        answer = pull_blob(asker, store, blob)
        if answer.status != 200 or answer.size != blob.size:
            raise AssertionError(f"{blob.path}: {answer}")
        times.append(answer.first_byte * 1e3)
    return times


def _miss(asker: Asker, count: int, store: Store | None = None, *, size: int = SMALL) -> list[float]:
    """Milliseconds until 404; with a store as containerd asks, which makes an ingest first and knows the size."""
    times = []
    for _ in range(count):
        digest = f"sha256:{os.urandom(32).hex()}"
        blob = Content(digest, size, f"small/1/blobs/{digest}")
        answer = asker.get(blob.path) if store is None else pull_blob(asker, store, blob)
        if answer.status != 404:
            raise AssertionError(f"a random digest was answered {answer.status}")
        times.append(answer.first_byte * 1e3)
    return times
