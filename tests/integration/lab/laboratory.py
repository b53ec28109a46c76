"""The laboratory: a network, an upstream with registries, and nodes; all of it goes when the `with` ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.lab.containerd import Containerd
from tests.integration.lab.images import Pool
from tests.integration.lab.network import Namespace, Network
from tests.integration.lab.node import ROUTER_PORT, Node
from tests.integration.lab.upstream import Registry

UPSTREAM = 250  # the last byte of the upstream's address
MAXIMUM_NODES = 20
SHARED_MEMORY = Path("/dev/shm")
ENOUGH = 5 << 30  # bytes of memory that must be free for a laboratory to lie there
# Names without a dot or a port are not registries to containerd; the port is part of the name.
REGISTRY = "registry.lab:5000"
_OURS = re.compile(r"peili-(\d+)-.+")


def base_directory(need: int) -> Path:
    """Where a laboratory keeps its files: in memory, where there is enough of it, else on the disk."""
    if given := os.environ.get("PEILI_LAB_DIRECTORY"):
        return Path(given)
    with contextlib.suppress(OSError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        available = {words[0]: int(words[1]) * 1024 for words in lines}["MemAvailable:"]
        if min(available, shutil.disk_usage(SHARED_MEMORY).free) > need:
            return SHARED_MEMORY
    return Path("/var/tmp")


class Lab:
    """Use it in a `with`."""

    def __init__(self, *, need: int = ENOUGH) -> None:
        base = base_directory(need)
        _sweep(base)
        self.network = Network()
        self.directory = Path(tempfile.mkdtemp(prefix=f"peili-{os.getpid()}-", dir=base))
        self.pool = Pool(self.directory / "pool")
        self.nodes: list[Node] = []
        self._registries: dict[str, Registry] = {}
        self._upstream: Namespace | None = None

    def __enter__(self) -> Self:
        try:
            self.network.up()
            self._upstream = self.network.node(UPSTREAM)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wrong = [line for node in self.nodes for line in node.errors()]
        self.close()
        if error is None:
            assert not wrong, f"Peili logged errors: {wrong[:5]}"

    @property
    def upstream(self) -> Namespace:
        """The network of the registries."""
        assert self._upstream is not None
        return self._upstream

    def registry(self, name: str = REGISTRY, port: int | None = None) -> Registry:
        """The registry of this name, on the port of its name or the given; made and started the first time."""
        if name not in self._registries:
            number = port or int(name.rpartition(":")[2])
            directory = self.directory / f"registry-{number}"
            self._registries[name] = Registry(name, number, self.upstream, directory)
            self._registries[name].start()
        return self._registries[name]

    @property
    def registries(self) -> Sequence[Registry]:
        """All of them."""
        return list(self._registries.values())

    def containerds(
        self, versions: Iterable[str], *, discard_layers: bool = False, ipv6: bool = False
    ) -> list[Node]:
        """New nodes, each with a running containerd of its version that knows the registries made so far."""
        made = []
        versions = list(versions)
        numbers = range(1, len(self.nodes) + len(versions) + 1)
        addresses = (self.network.address(number, ipv6=ipv6) for number in numbers)
        bootstrap = "static:" + ",".join(f"{address}:{ROUTER_PORT}" for address in addresses)
        for version in versions:
            number = len(self.nodes) + 1
            assert number <= MAXIMUM_NODES
            namespace = self.network.node(number)
            names = {registry.name.partition(":")[0]: self.upstream.address for registry in self.registries}
            namespace.set_hosts(names)
            directory = self.directory / f"n{number}"
            containerd = Containerd(version, namespace, directory, discard_layers=discard_layers)
            for registry in self.registries:
                containerd.mirror(registry.name, registry.url)
            node = Node(namespace, containerd, directory, bootstrap, ipv6=ipv6)
            self.nodes.append(node)
            made.append(node)
            containerd.start()
        for node in made:
            node.containerd.wait_ready()
        return made

    def cluster(
        self, versions: Iterable[str], *options: str, discard_layers: bool = False, ipv6: bool = False
    ) -> list[Node]:
        """New nodes with containerd configured for Peili, and Peili running and ready."""
        made = self.containerds(versions, discard_layers=discard_layers, ipv6=ipv6)
        for node in made:
            node.configure()
            node.start_peili(*options)
        for node in made:
            node.wait_peili()
        return made

    def clear_nodes(self) -> None:
        """End all nodes and remove their files; the registries stay."""
        wrong = [line for node in self.nodes for line in node.errors()]
        for node in self.nodes:
            node.close()
            node.namespace.down()
            node.containerd.remove_files()
        self.nodes.clear()
        assert not wrong, f"Peili logged errors: {wrong[:5]}"

    def close(self) -> None:
        """End every process, remove every namespace and every file; each step whatever became of the others."""
        with contextlib.ExitStack() as stack:
            if not os.environ.get("PEILI_LAB_KEEP"):
                stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            stack.callback(self.network.down)
            for registry in self.registries:
                stack.callback(registry.stop)
            for node in self.nodes:
                stack.callback(node.close)


def _sweep(base: Path) -> None:
    """Remove the files of laboratories whose tests were killed."""
    for path in base.glob("peili-*"):
        match = _OURS.fullmatch(path.name)
        if match and not Path("/proc", match[1]).exists():
            shutil.rmtree(path, ignore_errors=True)
