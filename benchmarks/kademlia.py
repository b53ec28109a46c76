"""The pure Kademlia core in a simulated cluster of 1,000 on virtual time, with churn, frozen and lying nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from peili.kademlia.contact import Contact
from peili.kademlia.lookup import LookupSettings
from peili.kademlia.records import ProviderRecords
from tests.fakes.kademlia_network import Result, Scenario, simulate

FOUND, P99, LOAD = 99.9, 50.0, 5.0  # percent, ms, times the mean
LONE_KEYS = 10  # of a node, besides those that others hold as well
KEPT, ANSWERED = 100, 20  # providers of one key


def run(bench: Bench) -> Iterator[Figure]:
    """The scenario of the goals, as nodes are set up, with several holders of a key and with one."""
    small = Scenario(nodes=100, keys=200, measured=60.0, lookups=1000, misses=50)
    scenario = replace(
        bench.pick(Scenario(lookups=20_000), small),
        lone_keys_of_node=LONE_KEYS,
        settings=LookupSettings(),  # the default is a node's, too: it measures no round trips
    )
    started = time.monotonic()
    result = simulate(scenario)
    seconds = time.monotonic() - started
    assert result.lone is not None
    note = f"{scenario.nodes} nodes, {scenario.measured:.0f} s on virtual time in {seconds:.0f} s"
    holders = scenario.nodes * scenario.keys_of_node // scenario.keys
    yield from _lookups(result, f"{holders} holders", note)
    yield from _lookups(result.lone, "a single holder", f"{result.lone.lookups:,} lookups in the same run")
    yield Figure("until a miss is known, p99", "ms", (result.percentile(0.99, result.misses) * 1e3,))
    yield Figure("the busiest node's messages by the mean", "", (result.load_ratio,), Goal(LOAD))
    yield from _popular()


def _lookups(result: Result, holders: str, note: str) -> Iterator[Figure]:
    """Those of keys with so many holders."""
    found = result.success * 100
    yield Figure(f"lookups that find a live provider, {holders}", "%", (found,), Goal(FOUND, True), note=note)
    times = tuple(value * 1e3 for value in result.times)
    yield Figure(f"until the first live provider, {holders}, p50", "ms", times, note="round trips of 1 ms")
    p99 = result.percentile(0.99) * 1e3
    yield Figure(f"until the first live provider, {holders}, p99", "ms", (p99,), Goal(P99))
    yield Figure(f"hops of a lookup, {holders}", "", tuple(map(float, result.hops)))


def _popular() -> Iterator[Figure]:
    """One key with 1,000 providers."""
    random = Random(1)
    records = ProviderRecords()
    key = random.randbytes(32)
    for _ in range(1000):
        records.add(Contact(random.randbytes(38), (b"somewhere",)), [key], 0.0)
    times = []
    for _ in range(1000):
        started = time.perf_counter()
        answer = records.get(key, 1.0, random)
        times.append((time.perf_counter() - started) * 1e6)
    yield Figure("providers kept of a key with 1,000", "", (float(records.statistics().records),), Goal(KEPT))
    yield Figure("providers in an answer about it", "", (float(len(answer)),), Goal(ANSWERED))
    yield Figure("time of an answer about it", "µs", tuple(times))
