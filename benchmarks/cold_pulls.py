"""Cold pulls at once and staggered, against a single node alone, and against the same pulls without a mirror."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.cold_herd import Cold, Herd, Shape, middle, mirror_of
from benchmarks.figure import Figure, Goal
from benchmarks.pulls import UPSTREAM_RATE, rig

SHAPES = (Shape(100, 1), Shape(100, 4))
QUICK = (Shape(20, 1), Shape(20, 4))
SLOW_RATE = 100  # Mbit/s of the upstream for ten nodes
ONCE = {1: 1.05, 4: 1.15}  # sizes of the image that the upstream may send, by the number of layers
STAGGERED_ONCE = 1.1
SLOWEST = 1.25  # times a single node alone
APART = 0.2  # of a single pull, between the starts of two nodes
STAGGERED = 5  # nodes


@dataclass(frozen=True, slots=True)
class Compared:
    """The same shape pulled in several ways. `bare`: with no mirror and no limit; `direct`: with no mirror."""

    alone: list[Herd] = field(default_factory=list)
    direct: list[Herd] = field(default_factory=list)
    bare: list[Herd] = field(default_factory=list)
    shared: list[Herd] = field(default_factory=list)


def run(bench: Bench) -> Iterator[Figure]:
    """Two and five nodes at once."""
    for count in bench.pick((2, 5), (2,)):
        yield from _at_once(bench, count, UPSTREAM_RATE)


def ten(bench: Bench) -> Iterator[Figure]:
    """Ten nodes at once."""
    yield from _at_once(bench, bench.pick(10, 2), SLOW_RATE)


def staggered(bench: Bench) -> Iterator[Figure]:
    """Each node begins while the ones before it are still at it."""
    with rig(bench, bench.pick(STAGGERED, 2), mirror_of(bench)) as made:
        cold = Cold(made, UPSTREAM_RATE)
        cold.warm_up()
        for shape in bench.pick(SHAPES, QUICK):
            alone = [cold.alone(shape) for _ in range(bench.times(3))]
            pause = APART * middle(alone)
            herds = [cold.pull(shape, cold.nodes, pause=pause) for _ in alone]
            name = f"{shape}, {len(cold.nodes)} nodes, {pause:.2f} s apart"
            yield Figure(f"{name}: a single node alone, no mirror", "s", _slowest(alone))
            yield Figure(f"{name}: the slowest", "s", _slowest(herds), direct=_slowest(alone))
            upstream, goal = _upstream(herds), Goal(STAGGERED_ONCE)
            yield Figure(f"{name}: sent by the upstream", "images", upstream, goal, judge_worst=True)


def _at_once(bench: Bench, count: int, rate: int) -> Iterator[Figure]:
    with rig(bench, count, mirror_of(bench)) as made:
        cold = Cold(made, rate)
        cold.warm_up()
        for shape in bench.pick(SHAPES, QUICK):
            name = f"{shape}, {count} nodes, {rate} Mbit/s"
            yield from figures(name, compare(cold, shape, bench.times(3)), ONCE[shape.layers])


def compare(cold: Cold, shape: Shape, times: int) -> Compared:
    """A single node alone, all without limit and mirror, and all with the mirror, by turns; once all without it.

    That one takes as many times a single pull as there are nodes, and its time is no surprise.
    """
    found = Compared()
    found.direct.append(cold.pull(shape, cold.nodes, mirror=False))
    for _ in range(times):
        found.alone.append(cold.alone(shape))
        found.bare.append(cold.pull(shape, cold.nodes, mirror=False, limited=False))
        found.shared.append(cold.pull(shape, cold.nodes))
    return found


def figures(name: str, found: Compared, once: float) -> Iterator[Figure]:
    """What the comparison shows; `once`: the sizes of the image that the upstream may send, in every pull."""
    yield Figure(f"{name}: a single node alone, no mirror", "s", _slowest(found.alone))
    note = "what the machine itself costs"
    yield Figure(f"{name}: no mirror and no limit, the slowest", "s", _slowest(found.bare), note=note)
    yield Figure(f"{name}: the slowest", "s", _slowest(found.shared), direct=_slowest(found.direct))
    ratios = tuple(herd.slowest / middle(found.alone) for herd in found.shared)
    yield Figure(f"{name}: the slowest by a single node alone", "", ratios, Goal(SLOWEST))
    upstream, base = _upstream(found.shared), _upstream(found.direct)
    yield Figure(f"{name}: sent by the upstream", "images", upstream, Goal(once), base, judge_worst=True)


def _slowest(herds: Sequence[Herd]) -> tuple[float, ...]:
    return tuple(herd.slowest for herd in herds)


def _upstream(herds: Sequence[Herd]) -> tuple[float, ...]:
    return tuple(herd.upstream for herd in herds)
