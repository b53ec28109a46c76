"""Cold pulls from an upstream that limits each connection and not the sum."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.cold_herd import Cold, mirror_of
from benchmarks.cold_pulls import ONCE, QUICK, SHAPES, compare, figures
from benchmarks.cold_relay import Relay
from benchmarks.figure import Figure
from benchmarks.pulls import rig

NODES = 10
RATE = 100  # Mbit/s of a connection
PORT = 5050


def run(bench: Bench) -> Iterator[Figure]:
    """All at once: nobody is slower than alone without a mirror, so that Peili has only bytes to save."""
    with rig(bench, bench.pick(NODES, 2), mirror_of(bench)) as made:
        registry, upstream = made.registry, made.lab.upstream
        with Relay(upstream, PORT, registry.port) as relay:
            cold = Cold(made, RATE, relay.limit)
            upstream.limit(None)
            cold.use(cold.nodes, False)
            for node in cold.nodes:
                node.containerd.mirror(registry.name, relay.url)
            cold.warm_up()
            for shape in bench.pick(SHAPES, QUICK):
                name = f"{shape}, {len(cold.nodes)} nodes, {RATE} Mbit/s for each connection"
                yield from figures(name, compare(cold, shape, bench.times(3)), ONCE[shape.layers])
