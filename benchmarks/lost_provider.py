"""A provider that is lost in the middle of a layer: what that costs against the undisturbed pull."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks.bench import Bench
from benchmarks.figure import Figure, Goal
from benchmarks.pulls import MILLION, PULL_TIMEOUT, Rig, check, rig
from tests.integration.lab.node import Node
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

RATE = 200  # Mbit/s that each holder and the upstream send: the layer takes seconds
SIZE = 100  # MB
WHEN = 0.4  # of the layer, when the provider is lost
COST = {"killed": 0.3, "frozen": 2.0, "black-holed": 2.0}  # seconds
TWICE = 0.002  # of the image: what the headers of packets make


@dataclass(frozen=True, slots=True)
class Lost:
    """One pull: its time, the bytes that the puller's interface received, and what the upstream sent."""

    seconds: float
    received: int
    upstream: int


def run(bench: Bench) -> Iterator[Figure]:
    """With another holder, and with none, so that the upstream goes on."""
    size = bench.pick(SIZE, 20)
    with rig(bench, 3) as made:
        for node in made.nodes[:2]:
            node.namespace.limit(RATE)
        for holders, name in ((2, "another holder goes on"), (1, "the upstream goes on")):
            pulls: dict[str, list[Lost]] = {how: [] for how in ("", *COST)}
            for number in range(bench.times(3)):
                for how, found in pulls.items():
                    found.append(_pull(made, size, made.nodes[:holders], how))
                    bench.say(f"{name}, {number + 1}: {how or 'undisturbed'}: {found[-1].seconds:.2f} s")
            yield from _figures(size, name, pulls, alone=holders == 1)


def _figures(size: int, name: str, pulls: dict[str, list[Lost]], *, alone: bool) -> Iterator[Figure]:
    calm = pulls.pop("")
    base = tuple(pull.seconds for pull in calm)
    yield Figure(f"{size} MB undisturbed", "s", base, note=f"links of {RATE} Mbit/s")
    for how, found in pulls.items():
        cost = tuple(pull.seconds - median(base) for pull in found)
        yield Figure(f"{how}, {name}: cost", "s", cost, Goal(COST[how]), judge_worst=True)
        extra = tuple(pull.received - median(c.received for c in calm) for pull in found)
        twice = tuple(count / MILLION for count in extra)
        yield Figure(f"{how}, {name}: fetched twice", "MB", twice, Goal(size * TWICE), judge_worst=True)
        upstream = tuple(pull.upstream / MILLION for pull in found)
        goal = None if alone else Goal(0.0)
        yield Figure(f"{how}, {name}: sent by the upstream", "MB", upstream, goal, judge_worst=True)


def _pull(made: Rig, size: int, holders: Sequence[Node], how: str) -> Lost:
    """One pull of a fresh image by the last node, disturbed or not."""
    puller = made.nodes[-1]
    fresh = made.fresh(size * MILLION, layers=1)
    made.spread(fresh, holders, puller)
    for holder in holders:
        wait_until(lambda holder=holder: holder.finds(fresh.reference, local=True), "offered")  # type: ignore[misc]
    made.lab.upstream.limit(RATE)
    traffic, received = Traffic(made.registry), puller.namespace.counters().received
    before = {holder: holder.namespace.counters().sent for holder in holders}

    def pull() -> float:
        started = time.perf_counter()
        puller.pull(fresh.reference, PULL_TIMEOUT)
        return time.perf_counter() - started

    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(pull)
        victim = _sender(holders, before, int(size * MILLION * WHEN))
        with _lost(victim, how):
            seconds = pulling.result(PULL_TIMEOUT)
            got = puller.namespace.counters().received - received
    check(puller, fresh)
    sent = traffic.sent()
    made.forget(fresh)
    return Lost(seconds, got, sent)


def _sender(holders: Sequence[Node], before: dict[Node, int], some: int) -> Node:
    """The holder that has sent so much, once there is one."""

    def busy() -> Node | None:
        return next((h for h in holders if h.namespace.counters().sent - before[h] > some), None)

    found = wait_until(busy, "a holder sends the layer", PULL_TIMEOUT)
    assert found is not None
    return found


@contextmanager
def _lost(holder: Node, how: str) -> Iterator[None]:
    """The holder is lost in this way meanwhile, or stays where `how` is empty."""
    match how:
        case "killed":
            holder.kill_peili()
        case "frozen":
            holder.freeze_peili(True)
        case "black-holed":
            holder.namespace.reachable(False)
    try:
        yield
    finally:
        match how:
            case "killed":
                holder.start_peili()
            case "frozen":
                holder.freeze_peili(False)
            case "black-holed":
                holder.namespace.reachable(True)
        holder.wait_peili()
