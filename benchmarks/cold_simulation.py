"""Cold pulls of 1,000 nodes on virtual time: the pure parts of Peili, and links that are shared fairly."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from tests.fakes.follow_network import Result, Scenario
from tests.fakes.follow_network import run as simulate

SLOWEST, UPSTREAM = 2.0, 1.1  # times a single pull, and sizes of the image
FAILING, UPSTREAM_FAILING = 0.05, 1.5  # of the nodes, and sizes of the image
SEEDS = (1, 2, 3)


def run(bench: Bench) -> Iterator[Figure]:
    """1 GB over links of 1 Gbit/s, from an upstream of 1 Gbit/s; of those that fail, half freeze."""
    nodes, seeds = bench.pick((1000, SEEDS), (100, SEEDS[:1]))
    calm = [_simulate(bench, Scenario(nodes=nodes, seed=seed)) for seed in seeds]
    name = f"{nodes} nodes, 1 GB"
    yield from _figures(name, calm, Goal(SLOWEST), UPSTREAM)
    # All within the time of a single pull, so that it happens while the others pull.
    within = calm[0].single
    failing = [
        _simulate(bench, Scenario(nodes=nodes, seed=seed, fail=FAILING, fail_within=within)) for seed in seeds
    ]
    yield from _figures(f"{name}, {FAILING:.0%} fail", failing, None, UPSTREAM_FAILING)


def _figures(name: str, results: list[Result], slowest: Goal | None, upstream: float) -> Iterator[Figure]:
    ratios = tuple(result.slowdown for result in results)
    yield Figure(f"{name}: the slowest by a single pull", "", ratios, slowest, judge_worst=True)
    sent = tuple(result.upstream_ratio for result in results)
    yield Figure(f"{name}: sent by the upstream", "images", sent, Goal(upstream), judge_worst=True)
    ended = tuple(result.finished / result.surviving * 100 for result in results)
    yield Figure(f"{name}: pulls of survivors that end", "%", ended, Goal(100.0, at_least=True), judge_worst=True)
    yield Figure(f"{name}: nodes in the longest chain", "", tuple(float(result.deepest) for result in results))
    yield Figure(f"{name}: longest time without a byte", "s", tuple(result.longest_wait for result in results))


def _simulate(bench: Bench, scenario: Scenario) -> Result:
    started = time.monotonic()
    result = simulate(scenario)
    text = f"seed {scenario.seed}, {scenario.fail:.0%} fail, in {time.monotonic() - started:.1f} s: {result}"
    bench.say(text)
    return result
