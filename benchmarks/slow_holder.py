"""Ten nodes pull at once what one node with a slow link has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from benchmarks.pulls import MILLION, PULL_TIMEOUT, UPSTREAM_RATE, Fresh, Rig, check, rig
from tests.integration.lab.node import Node
from tests.integration.lab.upstream import Traffic

PULLERS = 10
RATE = 100  # Mbit/s that the holder sends
SIZE = 50  # MB
UPSTREAM = 1.0  # images at most that the upstream may send when a peer has it


@dataclass(frozen=True, slots=True)
class Herd:
    """Many pulls at once: when each was done, and by how many images the holder and the upstream sent."""

    seconds: tuple[float, ...]
    holder: float
    upstream: float


def run(bench: Bench) -> Iterator[Figure]:
    """The same with and without the mirror by turns, and a single pull for comparison."""
    count, size = bench.pick((PULLERS, SIZE), (3, 10))
    direct, single, herds = [], [], []
    with rig(bench, count + 1) as made:
        made.nodes[0].namespace.limit(RATE)
        for number in range(bench.times(3)):
            direct.append(_direct(made, size))
            single.append(_shared(made, size, made.nodes[1:2]))
            herds.append(_shared(made, size, made.nodes[1:]))
            bench.say(f"{number + 1}: the last of {count} after {max(herds[-1].seconds):.1f} s")
    name = f"{size} MB"
    last = tuple(max(herd.seconds) for herd in herds)
    base = tuple(max(herd.seconds) for herd in direct)
    alone = tuple(max(herd.seconds) for herd in single)
    yield Figure(f"{name}, {count} at once, direct at {UPSTREAM_RATE} Mbit/s, the last", "s", base)
    yield Figure(f"{name}, one puller, holder at {RATE} Mbit/s", "s", alone)
    yield Figure(f"{name}, {count} at once from that holder, the last", "s", last, direct=base)
    yield Figure("the last of them by a single one", "", tuple(a / b for a, b in zip(last, alone, strict=True)))
    fair = Goal(count / 2)
    note = f"{count} if later pullers never use earlier ones"
    yield Figure("images that the holder sent", "", tuple(herd.holder for herd in herds), fair, note=note)
    upstream = tuple(herd.upstream for herd in herds)
    yield Figure("images that the upstream sent", "", upstream, Goal(UPSTREAM), judge_worst=True)


def _direct(made: Rig, size: int) -> Herd:
    """No puller uses the mirror."""
    for node in made.nodes[1:]:
        made.mirror.use(node, False)
    fresh = made.fresh(size * MILLION)
    herd = _together(made, fresh, made.nodes[1:])
    made.forget(fresh)
    for node in made.nodes[1:]:
        made.mirror.use(node, True)
    return herd


def _shared(made: Rig, size: int, pullers: Sequence[Node]) -> Herd:
    """The holder has it, the pullers come."""
    fresh = made.fresh(size * MILLION)
    made.spread(fresh, made.nodes[:1], made.nodes[1])
    herd = _together(made, fresh, pullers)
    made.forget(fresh)
    return herd


def _together(made: Rig, fresh: Fresh, pullers: Sequence[Node]) -> Herd:
    holder, traffic = made.nodes[0], Traffic(made.registry)
    before, started = holder.namespace.counters().sent, time.perf_counter()

    def pull(node: Node) -> float:
        node.pull(fresh.reference, PULL_TIMEOUT)
        return time.perf_counter() - started

    with ThreadPoolExecutor(len(pullers)) as pool:
        seconds = tuple(pool.map(pull, pullers))
    sent = holder.namespace.counters().sent - before
    for node in pullers:
        check(node, fresh)
    return Herd(seconds, sent / fresh.size, traffic.sent() / fresh.size)
