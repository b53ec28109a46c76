"""A pull of what a peer has, by turns with one that the upstream sends; and what the mirrors' CPUs do for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.bench import Bench
from benchmarks.exposition import total
from benchmarks.figure import Figure, Goal, at_most
from benchmarks.mirrors import PeiliMirror, without_capabilities
from benchmarks.pulls import MILLION, UPSTREAM_RATE, Pull, Rig, rig

SPEGEL = {10: 0.068, 100: 0.373, 1000: 10.3}  # seconds of its pulls of so many MB, on another machine
CPU_FAST, CPU_SLOW = 0.6, 1.0  # seconds of all mirrors together, per GB
SLOW_RATE = 200  # Mbit/s
GIGABYTE = 1000  # MB
RELAYED = "peili_relayed_bytes_total"


def run(bench: Bench) -> Iterator[Figure]:
    """10 MB, 100 MB and 1 GB."""
    yield from _sizes(bench, bench.pick((10, 100, GIGABYTE), (10, 30)), "")


def slow_link(bench: Bench) -> Iterator[Figure]:
    """The holder sends at 200 Mbit/s: many small reads."""
    size = bench.pick(GIGABYTE, 30)
    for mirror in _mirrors(bench):
        with rig(bench, 3, mirror, used_by=2) as made:
            made.nodes[0].namespace.limit(SLOW_RATE)
            warm = [_warm(made, size)[1] for _ in range(bench.times(3))]
        name = f"{size} MB over {SLOW_RATE} Mbit/s, {mirror}"
        floor = size * 8 / SLOW_RATE
        yield Figure(name, "s", tuple(pull.seconds for pull in warm), note=f"the link needs {floor:.1f} s")
        yield _cpu(f"CPU of all mirrors, {name}", warm, CPU_SLOW)


def no_capabilities(bench: Bench) -> Iterator[Figure]:
    """As in a container that has dropped them all: the pipes of root are few and small there."""
    with without_capabilities(bench.directory):
        yield from _sizes(bench, bench.pick((100, GIGABYTE), (10,)), ", no capabilities")


def _mirrors(bench: Bench) -> list[str]:
    return [mirror for mirror in bench.mirrors if mirror != "none"]


def _sizes(bench: Bench, sizes: Sequence[int], suffix: str) -> Iterator[Figure]:
    direct: dict[int, list[Pull]] = {size: [] for size in sizes}
    for mirror in _mirrors(bench) or ["none"]:
        with rig(bench, 3, mirror, used_by=2) as made:
            for size in sizes:
                yield from _size(made, size, f", {mirror}{suffix}", direct[size])
            yield from _copied(made, f", {mirror}{suffix}")


def _size(made: Rig, size: int, suffix: str, direct: list[Pull]) -> Iterator[Figure]:
    """One size: a direct and a warm pull by turns, each of an image of its own."""
    cold, warm = [], []
    bench = made.bench
    for number in range(bench.times(5 if size < GIGABYTE else 3)):
        if "none" in bench.mirrors:
            direct.append(_direct(made, size))
            bench.say(f"{size} MB direct: {direct[-1].seconds:.2f} s")
        if suffix.startswith(", none"):
            continue
        first, second = _warm(made, size)
        cold.append(first)
        warm.append(second)
        bench.say(f"{size} MB warm, {number + 1}: {second.seconds:.3f} s, CPU {second.cpu_per_gigabyte:.2f} s/GB")
    base = tuple(pull.seconds for pull in direct)
    if base:
        yield Figure(f"{size} MB direct at {UPSTREAM_RATE} Mbit/s", "s", base)
    if warm:
        yield from _figures(size, suffix, cold, warm, base)


def _figures(
    size: int, suffix: str, cold: Sequence[Pull], warm: Sequence[Pull], base: tuple[float, ...]
) -> Iterator[Figure]:
    goal = at_most(SPEGEL.get(size))
    name = f"{size} MB warm{suffix}"
    times = tuple(pull.seconds for pull in warm)
    yield Figure(name, "s", times, goal, base, "goal: Spegel's, on another machine" if goal else "")
    floor = tuple(pull.seconds for pull in cold)
    yield Figure(f"{size} MB cold, upstream without a limit{suffix}", "s", floor, note="this machine's floor")
    if base:
        yield _ratio(f"{name}, by the direct pull", times, base[-len(times) :])
    yield _ratio(f"{name}, by that cold pull", times, floor)
    sent = tuple(pull.upstream / MILLION for pull in warm)
    yield Figure(f"{name}, sent by the upstream", "MB", sent, at_most(0.0), judge_worst=True)
    if size >= GIGABYTE:
        yield _cpu(f"CPU of all mirrors, {size} MB warm{suffix}", warm, CPU_FAST)


def _ratio(name: str, values: Sequence[float], by: Sequence[float]) -> Figure:
    """Of what was measured by turns."""
    return Figure(name, "", tuple(a / b for a, b in zip(values, by, strict=True)))


def _copied(made: Rig, suffix: str) -> Iterator[Figure]:
    """What came through Python's memory of all that was relayed so far."""
    if not isinstance(made.mirror, PeiliMirror):
        return
    puller = made.nodes[1].metrics()
    copied, spliced = (total(puller, RELAYED, way=way) for way in ("copied", "spliced"))
    if spliced is None:
        raise AssertionError(f"the puller's /metrics has no {RELAYED} with way=spliced")
    note = f"of {(spliced + (copied or 0.0)) / MILLION:.0f} MB relayed"
    yield Figure(f"copied through Python{suffix}", "bytes", (copied or 0.0,), Goal(0), note=note)


def _cpu(name: str, pulls: Sequence[Pull], goal: float) -> Figure:
    values = tuple(pull.cpu_per_gigabyte for pull in pulls)
    enough = median(pull.size for pull in pulls) >= 1e9 * 0.99
    return Figure(name, "s/GB", values, at_most(goal if enough else None), note="" if enough else "too few bytes")


def _direct(made: Rig, size: int) -> Pull:
    """The node whose containerd knows no mirror."""
    fresh = made.fresh(size * MILLION)
    pull = made.pull(made.nodes[-1], fresh)
    made.forget(fresh)
    return pull


def _warm(made: Rig, size: int) -> tuple[Pull, Pull]:
    """The holder's pull from an upstream without a limit, then another node's, from the holder."""
    holder, puller, asker = made.nodes
    fresh = made.fresh(size * MILLION)
    [cold] = made.spread(fresh, [holder], asker)
    warm = made.pull(puller, fresh)
    made.forget(fresh)
    return cold, warm
