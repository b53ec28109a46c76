"""After a fault: nothing is left of it on any node, and readiness tells the truth.

What an idle process uses is not constant: kept connections and pipes are reused. So each number is held against
that of the first look at the same process, with what its connections explain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.integration.lab.node import Node
from tests.integration.lab.waiting import wait_until

PATIENCE = 30.0  # seconds until an ingest that is left over is not watched any more
MORE_DESCRIPTORS = 32  # connections to other nodes and pipes: they are kept, and reused
MORE_TASKS = 16  # of streams that are open to peers, and bodies whose commit is awaited
TASKS_OF_PEER = 8
MORE_MEMORY = 40 << 20  # bytes; what a burst leaves in the allocator


@dataclass(frozen=True, slots=True)
class Use:
    """What a Peili uses and keeps, by its own metrics."""

    pid: int
    tasks: int
    connections: int  # of clients and peers, at the registry port
    in_flight: int
    peers: int
    descriptors: int
    memory: int
    records: int
    provided: int


def use(node: Node) -> Use:
    """Now; raise OSError where Peili does not answer."""
    values: Counter[str] = Counter()
    for line in node.metrics().splitlines():
        if line and line[0] != "#":
            series, _, value = line.rpartition(" ")
            values[series.partition("{")[0]] += int(float(value))
    return Use(
        pid=node.peili.pid,
        tasks=values["peili_tasks"],
        connections=values["peili_connections"],
        in_flight=values["peili_transfers_in_flight"],
        peers=values["peili_peers"],
        descriptors=values["process_open_fds"],
        memory=values["process_resident_memory_bytes"],
        records=values["peili_provider_records"],
        provided=values["peili_provided_keys"],
    )


class Leaks:
    """Looks at the nodes of a laboratory, again and again. `strangers`: peers of theirs that are no nodes of it."""

    def __init__(self, *, strangers: bool = False) -> None:
        self._strangers = strangers
        self._first: dict[int, Use] = {}  # by process
        self._last: dict[Node, Use] = {}
        self._ghosts = 0  # records of processes that were killed: nobody is told of them, and they expire

    @contextmanager
    def none(self, nodes: Sequence[Node]) -> Iterator[None]:
        """Nothing that happens in the block leaves anything behind on these nodes, and all are ready again."""
        self.look(nodes)
        yield
        wait_until(lambda: self._check(nodes), "nothing is left of it", PATIENCE)
        for node in nodes:
            assert node.errors() == [], node

    def look(self, nodes: Sequence[Node]) -> None:
        """Remember what they use."""
        for node in nodes:
            now = use(node)
            self._first.setdefault(now.pid, now)
            self._last[node] = now

    def _check(self, nodes: Sequence[Node]) -> bool:
        found = {node: use(node) for node in nodes}
        for node, now in found.items():
            # A new process is held against the one before it.
            before = self._first.get(now.pid) or self._first[self._last[node].pid]
            of_peers = TASKS_OF_PEER * max(now.peers - before.peers, 0)
            assert now.in_flight == 0, (node, now)
            own, own_before = now.tasks - now.connections, before.tasks - before.connections
            assert own <= own_before + MORE_TASKS + of_peers, (node, now, before)
            descriptors = before.descriptors + now.connections + MORE_DESCRIPTORS
            assert now.descriptors <= descriptors, (node, now, before)
            assert now.memory <= before.memory + MORE_MEMORY, (node, now, before)
            assert node.ready().status == 200, (node, node.ready())
        self._check_records(found)
        return True

    def _check_records(self, found: dict[Node, Use]) -> None:
        """Nobody keeps more records than there is content, but for those of killed processes."""
        restarted = sum(now.provided for node, now in found.items() if now.pid != self._last[node].pid)
        provided = sum(now.provided for now in found.values())
        for node, now in found.items():
            if not self._strangers:
                kept = now.records - self._ghosts - restarted
                assert kept <= provided - now.provided, (node, now, found, self._ghosts)
        self._ghosts += restarted
        for node, now in found.items():
            self._first.setdefault(now.pid, now)
            self._last[node] = now
