"""What an idle node costs: memory and CPU with little to offer, in a cluster of three."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import real_store
from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from benchmarks.meter import idle_share, usage
from benchmarks.peilis import Cluster

RESIDENT = 72.0  # MB
CPU = 0.5  # percent of a core


def run(bench: Bench) -> Iterator[Figure]:
    """One node with a real containerd and one image, two with layouts."""
    with Cluster(bench, "idle") as cluster, real_store.containerd(bench) as found:
        for _ in range(3):
            cluster.store().add("idle", [10_000] * 3, importable=True)
        if found is None:
            node = cluster.node()
        else:
            real_store.import_store(found, cluster.stores[0])
            node = cluster.node(real_store.options(found))
        for _ in range(2):
            cluster.node()
        cluster.start()
        cluster.wait_shared([store.images[0].keys for store in cluster.stores])
        kind = "layout" if found is None else f"containerd {found.version}"
        seconds, rounds = bench.pick((60.0, 3), (5.0, 1))
        shares = idle_share(bench, node.pid, seconds, rounds)
        yield Figure("CPU of an idle node", "% of a core", shares, Goal(CPU), note=kind)
        used = usage(node.pid)
        yield Figure("resident memory of an idle node", "MB", (used.resident,), Goal(RESIDENT), note=kind)
        yield Figure("its threads", "", (used.threads,))
        yield Figure("its descriptors", "", (used.descriptors,))
