"""A single node that pulls a new image alone, by turns with Peili in front of its containerd and without."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.cold_herd import Cold, Herd, Shape, middle, mirror_of
from benchmarks.figure import Figure, Goal
from benchmarks.pulls import UPSTREAM_RATE, rig

CLUSTER = 5  # nodes: the one that pulls asks the others
SHAPES = {Shape(20, 1): 15, Shape(20, 4): 15, Shape(100, 1): 7, Shape(100, 4): 7}  # and how often
QUICK = {Shape(20, 1): 2, Shape(20, 4): 2}
SHARE, LEAST = 0.03, 0.020  # of the pull without Peili, and seconds: the larger of them is what it may cost


def run(bench: Bench) -> Iterator[Figure]:
    """Always the same node, which leads all layers."""
    with rig(bench, bench.pick(CLUSTER, 2), mirror_of(bench)) as made:
        cold = Cold(made, UPSTREAM_RATE)
        cold.warm_up()
        for shape, times in bench.pick(SHAPES, QUICK).items():
            without: list[Herd] = []
            with_it: list[Herd] = []
            for _ in range(bench.times(times, times)):
                without.append(cold.alone(shape))
                with_it.append(cold.pull(shape, cold.nodes[:1]))
            yield from _figures(f"{shape}, one node alone", without, with_it)


def _figures(name: str, without: list[Herd], with_it: list[Herd]) -> Iterator[Figure]:
    base = middle(without)
    direct = tuple(herd.slowest for herd in without)
    times = tuple(herd.slowest for herd in with_it)
    yield Figure(f"{name}, no mirror", "s", direct)
    yield Figure(f"{name}", "s", times, direct=direct)
    cost = tuple((seconds - base) * 1e3 for seconds in times)
    yield Figure(f"{name}: cost", "ms", cost, Goal(max(base * SHARE, LEAST) * 1e3))
