"""Clusters of real `peili run` processes on loopback addresses, without root and without containerd.

Each node has an address of 127.0.0.0/8 of its own, so that they look like machines to each other. For what the
network itself decides there is the laboratory (`benchmarks.pulls`).
"""

from __future__ import annotations

import http.client
import json
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.asking import Asker
from benchmarks.bench import Bench
from benchmarks.exposition import total
from benchmarks.stores import Store
from tests.integration.lab import node as lab_node
from tests.integration.lab.processes import Process
from tests.integration.lab.waiting import wait_until

READY_TIMEOUT = 60.0  # seconds
SHARE_TIMEOUT = 600.0  # seconds until all keys are told to all peers
UNLIMITED = ("--max-uploads=0",)  # one peer asks such a holder for everything; by default it gets 32 large bodies
_ASK_TIMEOUT = 10.0  # seconds
_SAID = 4000  # characters of an answer or a log


class Peili:
    """One node."""

    def __init__(self, host: str, bootstrap: str, directory: Path, store: str, options: Sequence[str]) -> None:
        self.host = host
        self.log = directory / f"{host}.log"
        self.prefix: list[str] = []  # words before the command, as `setpriv …`
        self._words = [
            "run",
            f"--registry-address={host}:{lab_node.REGISTRY_PORT}",
            f"--router-address={host}:{lab_node.ROUTER_PORT}",
            f"--operations-address={host}:{lab_node.OPERATIONS_PORT}",
            f"--bootstrap={bootstrap}",
            *([f"--store={store}"] if store.startswith("layout:") else store.split(" ")),
            *options,
        ]
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and not ended."""
        return self._process is not None

    def start(self) -> None:
        """Start the process."""
        self._process = Process([*self.prefix, str(lab_node.PEILI), *self._words], self.log)

    def ready(self) -> bool:
        """Whether /readyz says so; raise CommandError where the process has ended."""
        assert self._process is not None
        self._process.check_running()
        try:
            return self.operations("/readyz")[0] == 200
        except OSError:
            return False

    def wait_ready(self) -> None:
        """Wait for that."""
        wait_until(self.ready, f"{self.host} ready", READY_TIMEOUT)

    def says(self) -> str:
        """What it answers to who asks whether it is ready, and the end of its log: for who waits in vain."""
        try:
            status, body = self.operations("/readyz")
            answer = f"{status} {body.decode(errors='replace')}"
        except OSError as error:
            answer = repr(error)
        return f"{self.host}: {answer[:_SAID]}\n{self.log.read_text(errors='replace')[-_SAID:]}"

    def operations(self, path: str) -> tuple[int, bytes]:
        """Ask the operations endpoint; raise OSError."""
        connection = http.client.HTTPConnection(self.host, lab_node.OPERATIONS_PORT, timeout=_ASK_TIMEOUT)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise OSError(repr(error)) from error
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """The status document."""
        found: dict[str, Any] = json.loads(self.operations("/status")[1])
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where it was never set."""
        return total(self.operations("/metrics")[1].decode(), name) or 0.0

    def asker(self) -> Asker:
        """A connection to the registry endpoint."""
        return Asker(self.host, lab_node.REGISTRY_PORT)

    def freeze(self, yes: bool) -> None:
        """SIGSTOP or SIGCONT."""
        assert self._process is not None
        self._process.send(signal.SIGSTOP if yes else signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def kill(self) -> None:
        """SIGKILL; does nothing where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process = None


class Cluster:
    """Several of them; use it in a `with`."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.directory = bench.directory / name
        self.directory.mkdir()
        self.nodes: list[Peili] = []
        self.stores: list[Store] = []
        self._bench = bench
        self._network = f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def store(self) -> Store:
        """A new layout; add to it before the node with the same number is made."""
        self.stores.append(Store(self.directory / f"store{len(self.stores)}"))
        return self.stores[-1]

    def node(self, store: str | None = None, *, options: Sequence[str] = ()) -> Peili:
        """A new node, not started, with the next layout, or with the store that `store`, its options, names."""
        number = len(self.nodes)
        if store is None:
            self.stores[number].close()
            store = f"layout:{self.stores[number].directory}"
        bootstrap = "static:" + ",".join(f"{self._network}.{n}:{lab_node.ROUTER_PORT}" for n in (1, 2, 3))
        host = f"{self._network}.{number + 1}"
        self.nodes.append(Peili(host, bootstrap, self.directory, store, options))
        return self.nodes[-1]

    def start(self) -> None:
        """Start the nodes that do not run yet, and wait until all are ready."""
        for node in self.nodes:
            if not node.running:
                node.start()
        for node in self.nodes:
            node.wait_ready()
        self._bench.say(f"{len(self.nodes)} nodes are ready")

    def wait_shared(self, keys: Sequence[int]) -> None:
        """Wait until the peers of each node know so many keys as it has: the records of all add up.

        With at most 21 nodes every node keeps the records of every other (k is 20).
        """
        assert len(keys) == len(self.nodes) <= 21
        total = sum(keys)
        for node, own in zip(self.nodes, keys, strict=True):
            wanted = total - own

            def shared(node: Peili = node, wanted: int = wanted) -> bool:
                records = node.metric("peili_provider_records")
                assert records >= wanted * 0.999, f"{records:.0f} of {wanted}"
                return True

            wait_until(shared, f"{node.host} has the records of its peers", SHARE_TIMEOUT)
        self._bench.say(f"{total} keys are known to all")
