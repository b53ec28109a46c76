"""Which benchmarks there are, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import (
    cold_alone,
    cold_connections,
    cold_faults,
    cold_pulls,
    cold_simulation,
    flat,
    idle,
    kademlia,
    latency,
    lost_provider,
    many_keys,
    memory_limit,
    slow_holder,
    slow_transfers,
    warm_pull,
)
from benchmarks.bench import Benchmark

BENCHMARKS: Sequence[Benchmark] = (
    Benchmark("warm-pull", "a pull of what a peer has, by turns with a direct one", warm_pull.run, lab=True),
    Benchmark("slow-link", "a pull from a peer with a slow link", warm_pull.slow_link, lab=True),
    Benchmark("no-capabilities", "a warm pull without capabilities", warm_pull.no_capabilities, lab=True),
    Benchmark("lost-provider", "a provider that is lost in the middle of a layer", lost_provider.run, lab=True),
    Benchmark("slow-holder", "ten pullers and one holder with a slow link", slow_holder.run, lab=True),
    Benchmark("cold-pulls", "two and five nodes pull a new image at once", cold_pulls.run, lab=True),
    Benchmark("cold-ten", "ten nodes pull a new image at once", cold_pulls.ten, lab=True),
    Benchmark("cold-staggered", "nodes pull a new image one after another", cold_pulls.staggered, lab=True),
    Benchmark("cold-per-connection", "an upstream that limits each connection", cold_connections.run, lab=True),
    Benchmark("cold-faults", "a node that is lost in the middle of cold pulls", cold_faults.run, lab=True),
    Benchmark("cold-alone", "a new image that nobody else pulls", cold_alone.run, lab=True),
    Benchmark("cold-simulation", "the pure parts of cold pulls, simulated", cold_simulation.run),
    Benchmark("latency", "first byte in a cluster of ten", latency.run),
    Benchmark("idle", "an idle node", idle.run),
    Benchmark("flat", "memory over many requests", flat.run),
    Benchmark("many-keys", "a node with 1,000 images and 10,000 keys in a cluster of 21", many_keys.run),
    Benchmark("slow-transfers", "1,000 slow transfers beside a fast one", slow_transfers.run),
    Benchmark("memory-limit", "100 transfers in a memory control group of 128 MiB", memory_limit.run),
    Benchmark("kademlia", "the pure Kademlia core, simulated", kademlia.run),
)
