"""Cold pulls: a new image on several nodes at once, what that takes, and what leaves the upstream meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from benchmarks.bench import Bench
from benchmarks.pulls import MILLION, PULL_TIMEOUT, Fresh, Rig, check
from tests.integration.lab.node import Node


@dataclass(frozen=True, slots=True)
class Shape:
    """What an image is like. `megabytes`: of all its layers together."""

    megabytes: int
    layers: int

    def __str__(self) -> str:
        return f"{self.megabytes}MB-{self.layers}"


@dataclass(frozen=True, slots=True)
class Herd:
    """Pulls of one image: how long each took, and what left the upstream's interface, in sizes of the image.

    That counts what nobody had any use for, and the headers of packets, about 0.2 %.
    """

    seconds: tuple[float, ...]
    upstream: float

    @property
    def slowest(self) -> float:
        """The time of the node that took longest."""
        return max(self.seconds)


class Cold:
    """A rig, and nodes of it that pull fresh images. `limit` sets the upstream's rate in Mbit/s, or lifts it."""

    def __init__(self, made: Rig, rate: int, limit: Callable[[int | None], None] | None = None) -> None:
        self.made = made
        self.rate = rate
        self._limit = limit or made.lab.upstream.limit
        self._using = set(made.nodes)

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes of the rig."""
        return self.made.nodes

    def warm_up(self) -> None:
        """Pull something on every node, so that no connection of the cluster is new to what follows."""
        self.pull(Shape(1, 1), self.nodes, limited=False)

    def alone(self, shape: Shape) -> Herd:
        """One node, without the mirror: what all others are measured by."""
        return self.pull(shape, self.nodes[:1], mirror=False)

    def pull(
        self, shape: Shape, nodes: Sequence[Node], *, mirror: bool = True, limited: bool = True, pause: float = 0.0
    ) -> Herd:
        """A fresh image on these nodes, with the mirror or not, each `pause` seconds after the one before."""
        self.use(nodes, mirror)
        fresh = self.fresh(shape)
        self._limit(self.rate if limited else None)
        herd = together(self.made, fresh, nodes, pause)
        self.made.forget(fresh)
        how = f"{'the' if mirror else 'no'} mirror, {f'{self.rate} Mbit/s' if limited else 'no limit'}"
        text = f"the slowest {herd.slowest:.2f} s, upstream {herd.upstream:.3f}"
        self.made.bench.say(f"{shape}, nodes: {len(nodes)}, {how}: {text}")
        return herd

    def fresh(self, shape: Shape) -> Fresh:
        """An image of this shape."""
        return self.made.fresh(shape.megabytes * MILLION, shape.layers)

    def use(self, nodes: Sequence[Node], yes: bool) -> None:
        """Let the containerds of these nodes ask the mirror, or not."""
        for node in nodes:
            if yes != (node in self._using):
                self.made.mirror.use(node, yes)
                self._using ^= {node}


def together(made: Rig, fresh: Fresh, nodes: Sequence[Node], pause: float) -> Herd:
    """Pull on all of them, and hash every blob afterwards."""

    def pull(number: int) -> float:
        time.sleep(number * pause)
        return timed(nodes[number], fresh)

    before = sent(made)
    with ThreadPoolExecutor(len(nodes)) as pool:
        seconds = tuple(pool.map(pull, range(len(nodes))))
    upstream = (sent(made) - before) / fresh.size
    for node in nodes:
        check(node, fresh)
    return Herd(seconds, upstream)


def timed(node: Node, fresh: Fresh) -> float:
    """Pull, and return how many seconds it took."""
    started = time.perf_counter()
    node.pull(fresh.reference, PULL_TIMEOUT)
    return time.perf_counter() - started


def sent(made: Rig) -> int:
    """The bytes that have left the upstream's interface. Its log knows only of answers that have ended."""
    return made.lab.upstream.counters().sent


def middle(herds: Sequence[Herd]) -> float:
    """The median of the slowest."""
    return median(herd.slowest for herd in herds)


def mirror_of(bench: Bench) -> str:
    """The first mirror that the command names."""
    return next((mirror for mirror in bench.mirrors if mirror != "none"), "peili")
