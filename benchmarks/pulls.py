"""Pulls on real containerds in network namespaces, from a real registry with a limited link, of fresh images."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.meter import cpu_seconds
from benchmarks.mirrors import MIRRORS, Mirror
from benchmarks.stores import LAYER, digest_of, write_tar
from tests.integration.lab.images import Blob, Image, Layer
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.scenario import wait_offered
from tests.integration.lab.upstream import Registry, Traffic

UPSTREAM_RATE = 400  # Mbit/s
LAYERS = 4
MILLION = 1_000_000
PULL_TIMEOUT = 600.0  # seconds
OFFER_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Fresh:
    """An image that nobody has pulled yet."""

    reference: str
    image: Image

    @property
    def size(self) -> int:
        """The bytes that a pull brings."""
        return sum(blob.size for blob in self.image.pulled)


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull, with every blob hashed afterwards. `cpu`: of all mirrors together while it ran, in seconds."""

    seconds: float
    size: int
    upstream: int
    cpu: float

    @property
    def cpu_per_gigabyte(self) -> float:
        """By the bytes of the image."""
        return self.cpu / self.size * 1e9


class Rig:
    """A laboratory with a registry and nodes, all with the mirror running and in use where `use` was called."""

    def __init__(self, bench: Bench, lab: Lab, nodes: list[Node], mirror: Mirror) -> None:
        self.bench = bench
        self.lab = lab
        self.nodes = nodes
        self.mirror = mirror
        self.registry: Registry = lab.registry()
        self._number = 0

    def fresh(self, size: int, layers: int = LAYERS) -> Fresh:
        """An image of incompressible layers, not compressed, so that unpacking costs as little as it can."""
        self._number += 1
        made = [self._layer(size // layers) for _ in range(layers)]
        image = self.lab.pool.image(made)
        return Fresh(self.registry.add(image, "bench/fresh", str(self._number)), image)

    def _layer(self, size: int) -> Layer:
        partial = self.lab.pool.directory / ".partial"
        digest, whole = write_tar(partial, size)
        path = partial.rename(partial.with_name(digest.partition(":")[2]))
        return Layer(Blob(digest, LAYER, whole, path), digest)

    def spread(self, fresh: Fresh, holders: Sequence[Node], asker: Node) -> list[Pull]:
        """Let these nodes have it, from an upstream without a limit, and wait until the asker finds it all."""
        self.lab.upstream.limit(None)
        pulls = [self.pull(holder, fresh) for holder in holders]
        self.lab.upstream.limit(UPSTREAM_RATE)
        wait_offered(asker, fresh.reference, fresh.image, OFFER_TIMEOUT)
        return pulls

    def pull(self, node: Node, fresh: Fresh) -> Pull:
        """Pull as a kubelet does; raise where a blob is not what its digest says."""
        traffic, pids = Traffic(self.registry), self.mirror.pids(self.nodes)
        before, started = cpu_seconds(pids), time.perf_counter()
        node.pull(fresh.reference, PULL_TIMEOUT)
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(pids) - before
        check(node, fresh)
        return Pull(seconds, fresh.size, traffic.sent(), cpu)

    def forget(self, fresh: Fresh) -> None:
        """Give back an image's memory on all nodes and in the registry, whose files are links to the pool's."""
        for node in self.nodes:
            node.containerd.forget_images()
        for blob in fresh.image.layers:
            os.truncate(blob.path, 0)
            blob.path.unlink()


def check(node: Node, fresh: Fresh) -> None:
    """Hash every blob that the node has pulled."""
    for blob in fresh.image.pulled:
        found = digest_of(node.containerd.blob(blob.digest))
        if found != blob.digest:
            raise AssertionError(f"{node!r} has {found} as {blob.digest}")


@contextmanager
def rig(bench: Bench, count: int, mirror: str = "peili", *, used_by: int | None = None) -> Iterator[Rig]:
    """So many nodes; the first `used_by` of them use the mirror, by default all."""
    with Lab() as lab:
        lab.registry()
        nodes = lab.containerds([bench.suite] * count)
        made = Rig(bench, lab, nodes, MIRRORS[mirror]())
        for node in nodes[:used_by]:
            made.mirror.use(node, True)
        made.mirror.start(nodes)
        lab.upstream.limit(UPSTREAM_RATE)
        bench.say(f"{count} nodes with containerd {nodes[0].containerd.version} are ready")
        yield made
