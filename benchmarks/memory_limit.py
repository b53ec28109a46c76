"""A node in a memory control group of 128 MiB, with 100 transfers of which half have readers that stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.cgroup import MemoryGroup, memory_group
from benchmarks.crowd import Crowd, crowd
from benchmarks.figure import Figure, Goal
from benchmarks.meter import usage
from benchmarks.peilis import UNLIMITED, Cluster, Peili
from tests.image.in_containerd import MEMORY_LIMIT

SLOW, STOPPED = 50, 50  # transfers; every other one of the stopped is of a small blob
LARGE = 20_000_000  # bytes
SMALL = 1 << 20  # bytes: the largest that are read whole and hashed before one is passed on
RATE = 10_000  # bytes a second that a slow client reads


def run(bench: Bench) -> Iterator[Figure]:
    """The first node relays all of it from the second; each client has a blob of its own."""
    with memory_group(MEMORY_LIMIT) as group, Cluster(bench, "memory-limit") as cluster:
        cluster.store().add("none", [1000])
        large = cluster.store().add_hollow("large", [LARGE] * (SLOW + STOPPED // 2 + 1)).layers
        small = cluster.stores[1].add("small", [SMALL] * (STOPPED // 2)).layers
        node = cluster.node()
        node.prefix = group.prefix
        cluster.node(options=UNLIMITED)
        cluster.start()
        cluster.wait_shared([sum(image.keys for image in store.images) for store in cluster.stores])
        beside, *others = large
        mixed = [blob for pair in zip(others[SLOW:], small, strict=True) for blob in pair]
        with ExitStack() as stack:
            own = cluster.stores[0]
            slow = stack.enter_context(crowd(node, others[:SLOW], SLOW, RATE, store=own))
            stopped = stack.enter_context(crowd(node, mixed, STOPPED, RATE, stopped=STOPPED, store=own))
            for clients in (slow, stopped):
                clients.wait_answered()
            _hold(group, bench.pick(30.0, 3.0))
            yield from _beside(node, [slow, stopped], beside.path) if not group.kills else ()
        yield from _charged(group)


def _hold(group: MemoryGroup, seconds: float) -> None:
    """Leave them all alone for so long, or until the node is dead."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not group.kills:
        time.sleep(0.2)


def _beside(node: Peili, crowds: list[Crowd], path: str) -> Iterator[Figure]:
    """The node while they are there."""
    used = usage(node.pid)
    flowing, refused = crowds[0].in_flight(), sum(clients.progress().refused for clients in crowds)
    large = Goal(SLOW + STOPPED // 2, True)  # small ones may be left to upstream
    yield Figure("transfers in flight", "", (flowing,), large, note=f"of {SLOW + STOPPED}")
    yield Figure("transfers refused", "", (float(refused),), note="containerd fetches these upstream")
    yield Figure("highest resident memory", "MB", (used.highest,))
    with node.asker() as asker:
        answer = asker.get(path)
        assert (answer.status, answer.size) == (200, LARGE), answer
    yield Figure("a relay to another client beside them", "MB/s", (LARGE / answer.whole / 1e6,))


def _charged(group: MemoryGroup) -> Iterator[Figure]:
    note = f"limit {group.limit / 1e6:.0f}, page cache included"
    yield Figure("highest memory charged to its control group", "MB", (group.highest / 1e6,), note=note)
    yield Figure("times that the limit was reached", "", (float(group.limited),), note="page cache is given back")
    if group.sockets is not None:
        note = "not charged to the limit by control groups of version 1, which this machine has"
        yield Figure("highest memory of its sockets", "MB", (group.sockets / 1e6,), note=note)
    yield Figure("kills for want of memory", "", (float(group.kills),), Goal(0))
