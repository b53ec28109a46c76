"""Which benchmarks there are, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import flat, idle, kademlia, latency, many_keys, slow_transfers
from benchmarks.bench import Benchmark

BENCHMARKS: Sequence[Benchmark] = (
    Benchmark("latency", "first byte in a cluster of ten", latency.run),
    Benchmark("idle", "an idle node", idle.run),
    Benchmark("flat", "memory over many requests", flat.run),
    Benchmark("many-keys", "a node with 1,000 images and 10,000 keys in a cluster of 21", many_keys.run),
    Benchmark("slow-transfers", "1,000 slow transfers beside a fast one", slow_transfers.run),
    Benchmark("kademlia", "the pure Kademlia core, simulated", kademlia.run),
)
