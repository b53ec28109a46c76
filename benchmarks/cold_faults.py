"""Cold pulls with one random node killed or frozen, with its containerd, in the middle of each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

from benchmarks.bench import Bench
from benchmarks.cold_herd import Cold, Herd, Shape, middle, sent, timed
from benchmarks.figure import Figure, Goal
from benchmarks.pulls import PULL_TIMEOUT, UPSTREAM_RATE, Fresh, check, rig
from tests.integration.lab.cold import received
from tests.integration.lab.node import Node
from tests.integration.lab.waiting import wait_until

NODES = 5
SHAPE, QUICK = Shape(100, 1), Shape(20, 1)
WHEN = 0.5  # of the layer that the victim has when it is lost
WAYS = ("killed", "frozen")
SEED = 5  # for who is lost
UPSTREAM = 1.5  # sizes of the image that the upstream may send
TIMES, STALL = 1.5, 2.0  # a single pull, and seconds on top of it: --stall-timeout


def run(bench: Bench) -> Iterator[Figure]:
    """Every single pull is judged: a median would hide the ones that lose their leader."""
    shape = bench.pick(SHAPE, QUICK)
    random = Random(SEED)
    herds: dict[str, list[Herd]] = {how: [] for how in WAYS}
    alone = []
    with rig(bench, bench.pick(NODES, 3)) as made:
        cold = Cold(made, UPSTREAM_RATE)
        cold.warm_up()
        bench.say(f"the seed for who is lost: {SEED}")
        for _ in range(bench.times(8)):
            alone.append(cold.alone(shape))
            for how, found in herds.items():
                found.append(_pull(cold, shape, random.choice(cold.nodes), how))
        name = f"{shape}, {len(cold.nodes)} nodes"
    yield Figure(f"{name}: a single node alone, no mirror", "s", tuple(herd.slowest for herd in alone))
    for how, found in herds.items():
        yield from _figures(f"{name}, one {how}", found, middle(alone))


def _figures(name: str, found: list[Herd], alone: float) -> Iterator[Figure]:
    note = f"seed {SEED}"
    times, limit = tuple(herd.slowest for herd in found), Goal(TIMES * alone + STALL)
    yield Figure(f"{name}: the slowest of the others", "s", times, limit, (alone,), note, judge_worst=True)
    upstream = tuple(herd.upstream for herd in found)
    yield Figure(f"{name}: sent by the upstream", "images", upstream, Goal(UPSTREAM), note=note, judge_worst=True)


def _pull(cold: Cold, shape: Shape, victim: Node, how: str) -> Herd:
    """A fresh image on all nodes, of which one is lost; the times are those of the others."""
    made = cold.made
    cold.use(cold.nodes, True)
    fresh = cold.fresh(shape)
    made.lab.upstream.limit(cold.rate)
    before = sent(made)
    others = [node for node in cold.nodes if node is not victim]
    with ThreadPoolExecutor(len(cold.nodes)) as pool:
        pulls = {node: pool.submit(timed, node, fresh) for node in cold.nodes}
        _wait_half(victim, fresh)
        with _lost(victim, how):
            seconds = tuple(pulls[node].result(PULL_TIMEOUT) for node in others)
            upstream = (sent(made) - before) / fresh.size
    for node in others:
        check(node, fresh)
    text = f"the slowest of the others {max(seconds):.2f} s, upstream {upstream:.3f}"
    made.bench.say(f"{shape}, node {victim.namespace.number} {how}: {text}; {_end(pulls[victim])}")
    made.forget(fresh)
    return Herd(seconds, upstream)


def _wait_half(victim: Node, fresh: Fresh) -> None:
    [layer] = fresh.image.layers
    some = int(layer.size * WHEN)
    wait_until(lambda: received(victim, layer) >= some, f"{victim!r} has {WHEN:.0%} of the layer", PULL_TIMEOUT)


def _end(pull: Future[float]) -> str:
    """What became of the victim's pull, which has ended: nothing is promised about it."""
    error = pull.exception()
    return f"its own pull ended after {pull.result():.2f} s" if error is None else f"its own pull failed: {error}"


@contextmanager
def _lost(node: Node, how: str) -> Iterator[None]:
    """The node's Peili and containerd are lost in this way meanwhile."""
    if how == "frozen":
        node.freeze_peili(True)
        node.containerd.freeze(True)
    else:
        node.kill_peili()
        node.containerd.close()
    try:
        yield
    finally:
        if how == "frozen":
            node.containerd.freeze(False)
            node.freeze_peili(False)
        else:
            node.containerd.start()
            node.containerd.wait_ready()
            _drop_leases(node)
            node.start_peili()
        node.wait_peili()


def _drop_leases(node: Node) -> None:
    """The killed pull's leases would keep what it brought for a day."""
    for lease in node.containerd.ctr("leases", "ls", "-q").split():
        node.containerd.ctr("leases", "rm", "--sync", lease)
