"""A Kademlia network of many nodes on virtual time, made of the pure parts: what the tests and benchmarks simulate.

Every node runs peili.kademlia as the real one does, only the messages travel by an event queue. Dead and frozen
nodes are black holes: a request to them ends with its timeout. Liars answer, with nothing or with invented peers.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import count
from random import Random
from statistics import mean
from typing import TypeVar

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import digest_position, position
from peili.kademlia.lookup import Ask, Done, Lookup, LookupSettings
from peili.kademlia.records import ProviderRecords
from peili.kademlia.republish import Batch, Republisher, batches
from peili.kademlia.table import RoutingTable
from peili.kademlia.view import View

T = TypeVar("T")

ROUND_TRIP = 0.001  # seconds
TICK = 5.0  # seconds between a node's housekeeping
INVENTIONS = 50_000  # peers that liars may name
JOIN_LOOKUPS_APART = 0.05  # seconds


class Behaviour(Enum):
    HONEST = auto()
    FROZEN = auto()  # accepts, never answers
    EMPTY_LIAR = auto()  # answers with nothing
    INVENTING_LIAR = auto()  # names twenty invented peers, closest to whatever is asked
    DEAD = auto()


@dataclass(frozen=True)
class Scenario:
    """Shares are of all nodes. The measured time begins after every node joined and told its keys."""

    nodes: int = 1000
    seed: int = 1
    keys: int = 2000  # in the pool from which every node holds some
    keys_of_node: int = 10
    lone_keys_of_node: int = 0  # besides, that nobody else holds; half of the lookups are for such keys then
    frozen: float = 0.05
    liars: float = 0.01
    churn: float = 0.10  # die without goodbye, and as many join, per 15 minutes
    settle: float = 60.0  # seconds before faults begin
    measured: float = 900.0  # seconds with faults
    lookups: int = 10_000  # of live content, spread over the measured time
    misses: int = 1_000  # lookups of what nobody has
    # A node runs with LookupSettings(), whatever the network; these hurry more.
    settings: LookupSettings = field(default_factory=partial(LookupSettings.measured, ROUND_TRIP))


@dataclass
class Result:
    """What a run showed. Times in seconds."""

    lookups: int = 0
    found: int = 0
    times: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    hops: list[int] = field(default_factory=list)
    misses: list[float] = field(default_factory=list)  # until a lookup of what nobody has ended
    load: list[float] = field(default_factory=list)  # messages a second handled by each node that served throughout
    messages: int = 0
    lone: Result | None = None  # the lookups of keys with a single holder, apart

    def percentile(self, share: float, times: list[float] | None = None) -> float:
        ordered = sorted(self.times if times is None else times)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0

    @property
    def success(self) -> float:
        return self.found / self.lookups

    @property
    def load_ratio(self) -> float:
        """The busiest node's load by the mean."""
        return max(self.load) / mean(self.load)

    def __str__(self) -> str:
        return (
            f"{self.found}/{self.lookups} lookups found a live provider ({self.success:.4%}); "
            f"first one {self._spread(self.times)}; misses {self._spread(self.misses)}; "
            f"{_mean(self.requests):.1f} requests and {_mean(self.hops):.2f} hops each; "
            f"load {_mean(self.load):.2f} messages/s, busiest {self.load_ratio:.2f} times the mean; "
            f"{self.messages} messages"
        )

    def _spread(self, times: list[float]) -> str:
        p50, p99, p999, most = (self.percentile(share, times) * 1e3 for share in (0.5, 0.99, 0.999, 1.0))
        return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99.9 {p999:.1f} ms, max {most:.1f} ms"


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else 0.0


class Node:
    """One simulated node: the pure parts and a little glue, as routing/kademlia has it."""

    def __init__(self, network: Network, behaviour: Behaviour) -> None:
        self.network = network
        self.contact = Contact(network.random.randbytes(38), (network.random.randbytes(8),), 5000)
        self.id = self.contact.id
        self.behaviour = behaviour
        self.table = RoutingTable(self.id)
        self.records = ProviderRecords()
        self.republisher = Republisher()
        self.keys: list[bytes] = []
        self.lone_keys: list[bytes] = []
        self.handled = 0
        self.born = network.now
        self.settings = network.scenario.settings

    @property
    def gone(self) -> bool:
        """Whether this node no longer acts on what arrives."""
        return self.behaviour in {Behaviour.DEAD, Behaviour.FROZEN}

    # Serving

    def answer(self, sender: Node, target: int, key: bytes | None) -> tuple[list[Contact], list[Contact]]:
        """Closer peers and providers: the answer to FIND_NODE, or to GET_PROVIDERS of a key."""
        self.handled += 1
        now, random = self.network.now, self.network.random
        if self.behaviour is Behaviour.EMPTY_LIAR:
            return [], []
        if self.behaviour is Behaviour.INVENTING_LIAR:
            return self.network.invented(target), []
        self.prove(sender)
        closer = [contact for contact in self.table.closest(target, 21) if contact.id != sender.id][:20]
        return closer, self.records.get(key, now, random) if key is not None else []

    def prove(self, sender: Node) -> None:
        """Ask a stranger back before it is taken in."""
        if self.table.wants(sender.id):
            self.ping(sender.contact)

    def ping(self, contact: Contact) -> None:
        self.network.send(self, contact.id, lambda node: node.pinged(), lambda _: self.heard(contact), self.lost)

    def pinged(self) -> None:
        self.handled += 1

    def heard(self, contact: Contact) -> None:
        self.records.heard(contact.id)
        if self.table.heard(contact, self.network.now) and self.keys:
            closest = View([*self.table.peers(), self.contact]).closest
            for batch in self.republisher.joined(contact.id, closest):
                self.tell(batch)

    def lost(self, peer_id: bytes) -> None:
        self.table.failed(peer_id, self.network.now)
        self.records.suspect(peer_id)

    # Asking

    def look_up(
        self,
        target: int,
        done: Callable[[Lookup], None],
        key: bytes | None = None,
        found: Callable[[Lookup, list[Contact]], None] = lambda *_: None,
    ) -> Lookup:
        lookup = Lookup(
            target,
            self.table.seeds(target),
            self.id,
            self.settings,
            sees_everybody=key is not None and self.table.sees_everybody,
            is_suspect=lambda peer_id: self.table.is_suspect(peer_id, self.network.now),
        )
        _Run(self, lookup, target, key, found, done).step()
        return lookup

    def tell(self, batch: Batch) -> None:
        def take(node: Node) -> None:
            node.handled += 1
            if node.behaviour is Behaviour.HONEST:
                node.records.add(self.contact, batch.keys, self.network.now)
                node.prove(self)

        if batch.peer_id == self.id:
            return
        self.network.send(self, batch.peer_id, take, self._acknowledged, self.lost)

    def _acknowledged(self, answer: None) -> None:
        """An Ack came; nothing is to be done."""

    # Housekeeping

    def join(self, contacts: Sequence[Contact]) -> None:
        for contact in contacts:
            self.heard(contact)
        self.look_up(position(self.id), lambda _: self.refresh())
        self.network.at(self.network.random.uniform(1.0, 1.0 + TICK), self.tick)

    def refresh(self) -> None:
        for number, key in enumerate(self.table.to_refresh(self.network.now, self.network.random)):
            self.network.at(JOIN_LOOKUPS_APART * number, partial(self.look_up, position(key), _nothing))

    def tick(self) -> None:
        if self.behaviour is Behaviour.DEAD:
            return
        network = self.network
        network.at(TICK, self.tick)
        if self.behaviour is Behaviour.FROZEN:
            return
        for contact in self.table.to_check(network.now):
            self.ping(contact)
        self.refresh()
        self.records.sweep(network.now)
        if len(self.table):
            for region in self.republisher.due(network.now, self.table.estimated_size()):
                self.publish(region.target, region.keys)

    def publish(self, target: bytes, keys: Sequence[bytes]) -> None:
        def send(lookup: Lookup) -> None:
            view = View([*lookup.known(), *self.table.peers(), self.contact])
            for batch in batches(keys, view.holders):
                self.tell(batch)
            self.republisher.told(keys, self.network.now)

        self.look_up(digest_position(target), send)


def _nothing(lookup: Lookup) -> None:
    """A lookup that is done for the sake of the table."""


class _Run:
    """Drives one lookup."""

    def __init__(
        self,
        node: Node,
        lookup: Lookup,
        target: int,
        key: bytes | None,
        found: Callable[[Lookup, list[Contact]], None],
        done: Callable[[Lookup], None],
    ) -> None:
        self.node, self.lookup, self.target, self.key = node, lookup, target, key
        self.found, self.done = found, done
        self.waiting_until = -1.0
        self.over = False

    def step(self) -> None:
        network = self.node.network
        while not self.over and self.node.behaviour is not Behaviour.DEAD:
            step = self.lookup.next_step(network.now)
            if isinstance(step, Ask):
                for contact in step.peers:
                    self.ask(contact)
            elif isinstance(step, Done):
                self.over = True
                self.node.table.looked_up(self.target, network.now)
                self.done(self.lookup)
            else:
                if step.until != self.waiting_until:
                    self.waiting_until = step.until
                    network.at(step.until - network.now, self.step)
                return

    def ask(self, contact: Contact) -> None:
        def answered(answer: tuple[list[Contact], list[Contact]]) -> None:
            self.node.heard(contact)
            closer, providers = answer
            fresh = self.lookup.answered(contact.id, closer, network.now, providers)
            if fresh and not self.over:
                self.found(self.lookup, fresh)
            self.step()

        def failed(peer_id: bytes) -> None:
            self.node.lost(peer_id)
            self.lookup.failed(peer_id, network.now)
            self.step()

        network = self.node.network
        network.send(
            self.node, contact.id, lambda node: node.answer(self.node, self.target, self.key), answered, failed
        )


class Network:
    """The event queue, the nodes, and what is measured."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = Random(scenario.seed)
        self.now = 1000.0
        self.nodes: dict[bytes, Node] = {}
        self.messages = 0
        self.result = Result(lone=Result())
        self.pool = [self.random.randbytes(32) for _ in range(scenario.keys)]
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._number = count()
        self._inventions: list[tuple[int, bytes]] = []

    def at(self, delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + max(delay, 0.0), next(self._number), action))

    def run_until(self, time: float) -> None:
        while self._events and self._events[0][0] <= time:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = time

    def send(
        self,
        sender: Node,
        peer_id: bytes,
        serve: Callable[[Node], T],
        done: Callable[[T], None],
        failed: Callable[[bytes], None],
    ) -> None:
        """A request: half a round trip to the peer, half back; into a black hole, the timeout."""
        self.messages += 1
        self.at(
            ROUND_TRIP / 2 * self.random.uniform(0.8, 1.2),
            lambda: self._arrive(sender, peer_id, serve, done, failed),
        )

    def _arrive(
        self,
        sender: Node,
        peer_id: bytes,
        serve: Callable[[Node], T],
        done: Callable[[T], None],
        failed: Callable[[bytes], None],
    ) -> None:
        node = self.nodes.get(peer_id)
        if node is None or node.behaviour in {Behaviour.DEAD, Behaviour.FROZEN}:
            self.at(sender.settings.timeout, lambda: None if sender.gone else failed(peer_id))
            return
        answer = serve(node)
        back = ROUND_TRIP / 2 * self.random.uniform(0.8, 1.2)
        self.at(back, lambda: None if sender.gone else done(answer))

    def invented(self, target: int) -> list[Contact]:
        """Twenty peers that do not exist, from a stock of so many that they are nearer than anybody real."""
        if not self._inventions:
            stock = (self.random.randbytes(38) for _ in range(INVENTIONS))
            self._inventions = sorted((position(raw), raw) for raw in stock)
        at = bisect_left(self._inventions, (target, b""))
        around = self._inventions[max(at - 20, 0) : at + 20]
        around.sort(key=lambda pair: pair[0] ^ target)
        return [Contact(raw, (b"nowhere",)) for _, raw in around[:20]]

    # The story

    def start(self, behaviour: Behaviour = Behaviour.HONEST) -> Node:
        """A node joins, knowing three random nodes that live."""
        node = Node(self, behaviour)
        living = [other for other in self.nodes.values() if other.behaviour is Behaviour.HONEST]
        self.nodes[node.id] = node
        contacts = self.random.sample(living, min(3, len(living)))
        node.join([other.contact for other in contacts])
        return node

    def fill(self, node: Node) -> None:
        """The node gets its content."""
        node.keys = self.random.sample(self.pool, min(self.scenario.keys_of_node, len(self.pool)))
        node.lone_keys = [self.random.randbytes(32) for _ in range(self.scenario.lone_keys_of_node)]
        node.republisher.add([*node.keys, *node.lone_keys])

    def kill(self, node: Node) -> None:
        node.behaviour = Behaviour.DEAD
        del self.nodes[node.id]

    def honest(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.behaviour is Behaviour.HONEST]

    def replace(self) -> None:
        """Churn: one dies without a goodbye, one joins."""
        self.kill(self.random.choice(self.honest()))
        self.fill(self.start())

    def find(self) -> None:
        """A random node looks for a key that somebody live has told; what happens goes into the result."""
        known_for = ROUND_TRIP * 100 + 2 * TICK
        honest = [node for node in self.honest() if self.now - node.born > known_for]
        holders = self.random.choice(honest)
        searcher = self.random.choice(honest)
        if searcher is holders or not holders.keys:
            return
        if holders.lone_keys and self.random.random() < 0.5:
            assert self.result.lone is not None
            self._measure(searcher, self.random.choice(holders.lone_keys), self.result.lone)
            return
        key = self.random.choice(holders.keys)
        if key in searcher.keys:
            return
        self._measure(searcher, key, self.result)

    def miss(self) -> None:
        """A random node looks for what nobody has."""
        searcher, started = self.random.choice(self.honest()), self.now
        target = digest_position(self.random.randbytes(32))
        searcher.look_up(target, lambda _: self.result.misses.append(self.now - started), b"unknown")

    def _measure(self, searcher: Node, key: bytes, result: Result) -> None:
        started = self.now
        result.lookups += 1

        def is_live(contact: Contact) -> bool:
            node = self.nodes.get(contact.id)
            return node is not None and node.behaviour is Behaviour.HONEST

        def found(lookup: Lookup, providers: list[Contact]) -> None:
            if any(is_live(provider) for provider in providers):
                result.found += 1
                result.times.append(self.now - started)
                lookup.stop()

        def done(lookup: Lookup) -> None:
            result.requests.append(lookup.asked)
            result.hops.append(lookup.hops)

        own = searcher.records.get(key, self.now, self.random)
        if any(is_live(provider) for provider in own):
            result.found += 1
            result.times.append(0.0)
            return
        searcher.look_up(digest_position(key), done, key, found)


def simulate(scenario: Scenario) -> Result:
    """Build the network, let it settle, then churn, freeze, lie and look up for the measured time."""
    network = Network(scenario)
    random = network.random
    for number in range(scenario.nodes):
        network.at(scenario.settle / 3 * number / scenario.nodes, network.start)
    network.run_until(network.now + scenario.settle / 2)
    for node in network.honest():
        network.fill(node)
    network.run_until(network.now + scenario.settle / 2)
    _corrupt(network)
    start, end = network.now, network.now + scenario.measured
    deaths = round(scenario.nodes * scenario.churn * scenario.measured / 900)
    for _ in range(deaths):
        network.at(random.uniform(0, scenario.measured), network.replace)
    for _ in range(scenario.lookups):
        network.at(random.uniform(0, scenario.measured), network.find)
    for _ in range(scenario.misses):
        network.at(random.uniform(0, scenario.measured), network.miss)
    counted = {node.id: node.handled for node in network.honest()}
    before = network.messages
    network.run_until(end)
    network.run_until(end + 3.0)
    network.result.messages = network.messages - before
    network.result.load = [
        (node.handled - counted[node.id]) / (end - start) for node in network.honest() if node.id in counted
    ]
    return network.result


def _corrupt(network: Network) -> None:
    scenario = network.scenario
    chosen = network.random.sample(network.honest(), round(scenario.nodes * (scenario.frozen + scenario.liars)))
    frozen = round(scenario.nodes * scenario.frozen)
    for number, node in enumerate(chosen):
        if number < frozen:
            node.behaviour = Behaviour.FROZEN
        else:
            node.behaviour = Behaviour.EMPTY_LIAR if number % 2 else Behaviour.INVENTING_LIAR
