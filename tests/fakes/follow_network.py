"""A cluster that pulls new images at once, on virtual time: the code of peili.follow in every node, the rest fluid.

Messages travel by an event queue; bytes flow in small steps, shared fairly on each uplink and downlink and at the
upstream, and a byte can go on one latency after it came. containerd is a queue of downloads with a few slots, for
the whole node as in 2.1 (a 404 goes to the end of the queue before upstream is asked) or for each image as before.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial
from hashlib import sha256
from itertools import count
from random import Random

from peili.follow.codec import decode_answer, decode_ask, encode_answer, encode_ask
from peili.follow.coordinator import Coordinator
from peili.follow.failed_sources import SourceFailure
from peili.follow.growth import Growth, GrowthWatch
from peili.follow.message import Answer, Ask, Join, Leave, Outcome, Peer, Renew, Source
from peili.follow.replies import ASK_TIMEOUT, CANDIDATES, COORDINATORS, Counts, Silences, StandIn, judge
from peili.follow.serving import Admission, admit
from peili.follow.settings import FollowSettings
from peili.follow.slots import LAST_SLOT_SECONDS, Slots, Verdict
from peili.follow.source_choice import SourceChoice
from peili.follow.steps import GoUpstream, JoinNow, RenewNow, Stay, Take

GIGABIT = 125e6  # bytes a second
LATENCY = 0.001  # seconds, one way
HEAD_TIMEOUT = 0.5  # seconds until a source that accepts and says nothing has failed
NOTICED = 2.0  # seconds until routing knows that a node is gone
ZERO_BYTE_LIMIT = 4  # containerd's own
_STAND_IN, _UNHEARD = -1, -2  # places of answers that are no coordinator's


class State(Enum):
    ALIVE = auto()
    CRASHED = auto()  # its connections end
    FROZEN = auto()  # its connections stay, and nothing comes


@dataclass(frozen=True)
class Scenario:
    """Sizes in bytes, rates in bytes a second, times in seconds. `fail`: share that crash or freeze."""

    nodes: int = 1000
    layers: tuple[int, ...] = (1_000_000_000,)
    link: float = GIGABIT
    slow_share: float = 0.0  # of the nodes, with `slow_link`
    slow_link: float = GIGABIT / 10
    upstream: float = GIGABIT
    per_connection: bool = False  # whether `upstream` limits each connection, not the sum
    upstream_latency: float = 0.05
    fail: float = 0.0
    fail_coordinators: bool = False  # both of the first layer are among those that fail
    fail_within: float = 0.0  # seconds after the start; 0: twice the time of a single pull
    stagger: float = 0.0  # the nodes begin within so many seconds
    pause: float = 0.0  # each node's coordinator answers nothing for up to so many seconds, once
    pause_within: float = 0.03  # and begins that within so many seconds after the start
    zones: int = 1
    node_wide: bool = False  # slots as in containerd 2.1
    two_images: bool = False  # every other node pulls a second set of layers first, then the first one
    step: float = 0.01
    seed: int = 1
    limit: float = 600.0  # the simulation ends then, whoever is left
    settings: FollowSettings = field(default_factory=FollowSettings)
    wire: bool = False  # encode and decode every message


@dataclass
class Result:
    """What a run showed. `single`: seconds of one node alone; `upstream_ratio`: 1 is each layer fetched once."""

    single: float = 0.0
    slowest: float = 0.0
    median: float = 0.0
    finished: int = 0
    surviving: int = 0
    broken: int = 0  # pulls that containerd gave up
    upstream_ratio: float = 0.0
    upstream_fetches: int = 0
    deepest: int = 0
    messages: int = 0
    longest_wait: float = 0.0  # of a held response without a byte, or between two bytes
    requeues: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def slowdown(self) -> float:
        return self.slowest / self.single

    def __str__(self) -> str:
        return (
            f"{self.finished}/{self.surviving} ended, {self.broken} broken; slowest {self.slowest:.2f} s, median "
            f"{self.median:.2f} s, single {self.single:.2f} s ({self.slowdown:.2f} times); upstream "
            f"{self.upstream_ratio:.3f} times in {self.upstream_fetches} fetches; deepest {self.deepest}; "
            f"longest wait {self.longest_wait:.2f} s; {self.requeues} requeues; {self.messages} messages; "
            f"{self.reasons}"
        )


@dataclass(eq=False)
class Pull:
    """One layer on one node. `feed`: whom the bytes come from now, None nobody; the node itself: upstream."""

    node: Node
    key: bytes
    total: int
    offset: float = 0.0
    rate: float = 0.0
    grew_at: float = 0.0
    feed: Pull | None = None
    upstream: bool = False
    followers: set[Pull] = field(default_factory=set)
    choice: SourceChoice | None = None
    hold: int = 0
    gave_up: bool = False
    zero_bytes: int = 0
    watch: GrowthWatch | None = None
    announced: bool = False
    wake: int = 0
    level: int = 0
    committed: bool = False
    broken: bool = False
    in_slot: bool = False

    @property
    def bytes(self) -> int:
        return int(self.offset)

    @property
    def active(self) -> bool:
        return self.upstream or self.feed is not None or self.choice is not None or self.watch is not None


class Containerd:
    """The downloads of one node: slots of all pulls, or of each image."""

    def __init__(self, node: Node, *, node_wide: bool) -> None:
        self.node = node
        self.node_wide = node_wide
        self.queues: list[deque[tuple[Pull, bool]]] = []
        self.free: list[int] = []
        self.queue_of: dict[bytes, int] = {}

    def pull_image(self, pulls: Iterable[Pull]) -> None:
        if not self.node_wide or not self.queues:
            self.queues.append(deque())
            self.free.append(3)
        for pull in pulls:
            self.queue_of[pull.key] = len(self.queues) - 1
            self.queues[-1].append((pull, False))
        self.pump()

    def pump(self) -> None:
        for which, queue in enumerate(self.queues):
            while queue and self.free[which] > 0:
                self.free[which] -= 1
                pull, upstream = queue.popleft()
                pull.in_slot = True
                if upstream:
                    self.node.network.fetch(pull)
                else:
                    self.node.ask_mirror(pull)

    def closed(self, pull: Pull, *, again: bool = False, upstream: bool = False) -> None:
        """The body or the answer ended; `again`: asked anew, of the mirror, or of upstream after a 404."""
        which = self.queue_of[pull.key]
        pull.in_slot = False
        if upstream and not self.node_wide:
            pull.in_slot = True
            self.node.network.fetch(pull)
            return
        self.free[which] += 1
        if again or upstream:
            self.queues[which].append((pull, upstream))
        self.node.network.at(0.0, self.pump)


class Node:
    """One node: the decisions of peili.follow, and the glue that the mirror, the registry and routing will be."""

    def __init__(self, network: Network, number: int, link: float) -> None:
        scenario = network.scenario
        self.network = network
        self.settings = replace(scenario.settings, slots=scenario.settings.slots if scenario.node_wide else 0)
        name = sha256(f"{scenario.seed}/{number}".encode()).digest()
        host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.peer = Peer(name, host, 5000, f"zone-{number % scenario.zones}" if scenario.zones > 1 else "")
        self.link = link
        self.state = State.ALIVE
        self.failed_at = math.inf
        self.paused_until = 0.0  # its coordinator answers what it was asked meanwhile
        self.silences = Silences()
        self.coordinator = Coordinator(self.settings)
        self.slots = Slots(self.settings)
        self.containerd = Containerd(self, node_wide=scenario.node_wide)
        self.pulls: dict[bytes, Pull] = {}
        self.learned: set[bytes] = set()
        self.started = 0.0
        self.ended = math.inf
        self.up_left = self.down_left = 0.0
        self.out_left = self.in_left = 0

    @property
    def alive(self) -> bool:
        return self.state is State.ALIVE

    def start(self, images: list[list[tuple[bytes, int]]]) -> None:
        if not self.alive:
            return
        self.started = self.network.now
        for image in images:
            pulls = [Pull(self, key, total, grew_at=self.network.now) for key, total in image]
            self.pulls.update({pull.key: pull for pull in pulls})
            self.containerd.pull_image(pulls)

    def pause(self, seconds: float) -> None:
        """Its coordinator hears what it is asked, and answers only so much later."""
        self.paused_until = self.network.now + seconds

    # The mirror

    def ask_mirror(self, pull: Pull) -> None:
        """containerd asks this node's Peili, from the offset that its ingest has."""
        now = self.network.now
        if pull.gave_up:
            self.containerd.closed(pull, upstream=True)
            return
        pull.hold = self.slots.hold(pull.key, now)
        pull.grew_at = now
        pull.choice = SourceChoice(
            self.settings, pull.key, now, offset=pull.bytes, total=pull.total, port=5000, zone=self.peer.zone
        )
        if not self.settings.slots:
            self.network.at(0.0, lambda: self.drive(pull))
        else:
            self.network.at(LAST_SLOT_SECONDS, lambda: self.drive(pull))
            self.network.at(0.0, lambda: self.drive(pull))

    def drive(self, pull: Pull) -> None:
        """Do what the choice of source says, until it says to stay."""
        choice, now = pull.choice, self.network.now
        if choice is None or not self.alive:
            return
        choice.grew(pull.bytes, pull.grew_at)
        if self._verdict(pull) is not Verdict.HOLD:
            return
        while True:
            step = choice.next_step(now)
            match step:
                case Stay(until):
                    pull.wake += 1
                    # Not sooner than a clock's tick later: rounding must not hold the time.
                    self.network.at(max(until - now, 1e-6), partial(self._wake, pull, pull.wake))
                    return
                case Take(source):
                    self._take(pull, choice, source)
                case JoinNow(join):
                    self._tell(pull, choice, join)
                case RenewNow(renew):
                    self._tell(pull, choice, renew)
                case GoUpstream(leading, reason):
                    self._go_upstream(pull, leading, reason)
                    return

    def _wake(self, pull: Pull, token: int) -> None:
        if pull.wake == token:
            self.drive(pull)

    def _verdict(self, pull: Pull) -> Verdict:
        if pull.grew_at > 0 and pull.feed is not None and pull.rate > 0:
            self.slots.grew(pull.hold)
        verdict = self.slots.verdict(pull.hold, self.network.now)
        if verdict is Verdict.REQUEUE:
            self.network.result.requeues += 1
            self._let_go(pull)
            self._leave(pull, Outcome.GAVE_UP)
            for follower in list(pull.followers):
                self.network.later(partial(follower.node.source_ended, follower, pull))
            pull.zero_bytes += 1
            if pull.zero_bytes > ZERO_BYTE_LIMIT:
                pull.broken = True
                self.containerd.closed(pull)
                self.network.finished(self)
            else:
                self.containerd.closed(pull, again=True)
        elif verdict is Verdict.RELEASE:
            self._go_upstream(pull, False, "slots")
        return verdict

    def _let_go(self, pull: Pull) -> None:
        self.slots.end(pull.hold)
        pull.choice = None
        self.network.unfeed(pull)

    def _go_upstream(self, pull: Pull, leading: bool, reason: str) -> None:
        network = self.network
        network.count(reason)
        was_fed = pull.feed is not None or pull.bytes > 0
        self._let_go(pull)
        self.slots.lead_queued(pull.key)
        pull.watch = GrowthWatch(
            network.now, lapse=self.settings.queued, stall=self.settings.stall, size=pull.bytes
        )
        pull.announced = False
        self._watch_lead(pull)
        pull.gave_up = True
        # FIN, and 404 for the retry; or 404 at once.
        if was_fed:
            self.containerd.closed(pull, again=True)
        else:
            self.containerd.closed(pull, upstream=True)
        for other in self.pulls.values():
            if other.choice is not None:
                network.at(0.0, partial(self.drive, other))

    def _watch_lead(self, pull: Pull) -> None:
        """Look at the ingest now and then; tell the coordinators while it grows."""
        if pull.watch is None or not self.alive:
            return
        state = pull.watch.observe(self.network.now, pull.bytes, committed=pull.committed)
        if state is Growth.LAPSED:
            self.slots.lead_over(pull.key)
        if state is Growth.COMMITTED:
            pull.watch = None
            return
        if state in {Growth.GROWING, Growth.WAITING}:
            self._send(Renew(pull.key, pull.bytes, pull.total, port=5000, zone=self.peer.zone), lambda _: None)
        self.network.at(self.settings.renew_interval, lambda: self._watch_lead(pull))

    def lead_grew(self, pull: Pull) -> None:
        """The first growth is told at once."""
        pull.announced = True
        if pull.watch is not None:
            pull.watch.observe(self.network.now, pull.bytes)
        self.slots.lead_grew(pull.key, self.network.now)
        self._send(Renew(pull.key, pull.bytes, pull.total, port=5000, zone=self.peer.zone), lambda _: None)

    def _take(self, pull: Pull, choice: SourceChoice, source: Source) -> None:
        network, other = self.network, self.network.by_id.get(source.peer.id)
        start = pull.bytes

        def fail(failure: SourceFailure) -> None:
            if pull.choice is choice and self.alive:
                choice.failed(source.peer.id, failure, network.now)
                self.drive(pull)

        def head() -> None:
            if pull.choice is not choice or not self.alive:
                return
            assert other is not None
            theirs = other.pulls[pull.key]
            choice.taken(source, network.now)
            network.feed(pull, theirs)
            network.result.deepest = max(network.result.deepest, pull.level)
            self.drive(pull)

        def arrive() -> None:
            if other is None or other.state is State.CRASHED:
                network.later(lambda: fail(SourceFailure.BROKEN))
            elif other.state is State.FROZEN:
                network.at(HEAD_TIMEOUT, lambda: fail(SourceFailure.BROKEN))
            else:
                verdict = other.serve(pull.key, start)
                if verdict is Admission.SERVE:
                    network.later(head)
                else:
                    busy = verdict is Admission.BUSY
                    network.later(lambda: fail(SourceFailure.BUSY if busy else SourceFailure.BEHIND))

        network.later(arrive)

    def serve(self, key: bytes, start: int) -> Admission:
        """A peer asks for a blob that grows here, or is complete."""
        pull = self.pulls.get(key)
        if pull is None:
            return Admission.BEHIND
        size = pull.total + 1 if pull.committed else pull.bytes
        followers = len(pull.followers)
        return admit(self.settings, followers=followers, size=size, start=start, active=pull.active)

    def source_ended(self, pull: Pull, source: Pull) -> None:
        """The body from this source ended early."""
        if pull.feed is source and self.alive:
            self.network.unfeed(pull)
            if pull.choice is not None:
                pull.choice.failed(source.node.peer.id, SourceFailure.ENDED, self.network.now)
                self.drive(pull)

    def completed(self, pull: Pull) -> None:
        """containerd has the last byte, checks and commits."""
        pull.committed = True
        if pull.choice is not None:
            self.slots.end(pull.hold)
            pull.choice = None
        self.slots.lead_over(pull.key)
        pull.watch = None
        self.network.unfeed(pull)
        self._leave(pull, Outcome.COMMITTED)
        if pull.in_slot:
            self.containerd.closed(pull)
        if all(each.committed for each in self.pulls.values()):
            self.ended = self.network.now
            self.network.finished(self)

    # Messages

    def _leave(self, pull: Pull, outcome: Outcome) -> None:
        self._send(Leave(pull.key, outcome), lambda _: None)

    def _tell(self, pull: Pull, choice: SourceChoice, ask: Join | Renew) -> None:
        def answered(answer: Answer | None) -> None:
            if pull.choice is choice and self.alive:
                choice.answered(answer, self.network.now)
                self.drive(pull)

        self._send(ask, answered)

    def _send(self, ask: Ask, answered: Callable[[Answer | None], None]) -> None:
        """To both coordinators at once, as routing does; peili.follow.replies says whose answer counts."""
        Asked(self, self.network.coordinators(ask.key, self.silences), ask, answered)


class Asked:
    """One question to the coordinators of a digest, until an answer counts."""

    def __init__(
        self, node: Node, coordinators: list[Node], ask: Ask, answered: Callable[[Answer | None], None]
    ) -> None:
        network = self.network = node.network
        self.node = node
        self.coordinators = coordinators
        self.answered: Callable[[Answer | None], None] | None = answered
        self.started = network.now
        self.replies: dict[int, Answer | None] = {}
        self.silent = node.silences.places([each.peer.id for each in coordinators], network.now)
        self.listens = 0.0
        self.ask = ask
        self.stand_in = StandIn(ask, len(coordinators))
        self.decisive: Answer | None = None
        network.result.messages += len(coordinators)
        for place, coordinator in enumerate(coordinators):
            asked = replace(ask, alone=bool(self.silent)) if isinstance(ask, Join) else ask
            network.at(self._way(coordinator), partial(self._arrive, place, coordinator, asked))
        if StandIn.is_told(ask) and len(coordinators) <= COORDINATORS:
            self._ask_stand_in(_UNHEARD)
        self._judge()

    def _ask_stand_in(self, place: int) -> None:
        network, silences = self.network, self.node.silences
        others = network.candidates(self.ask.key)[COORDINATORS:]
        asked = next((node for node in others if not silences.has(node.peer.id, network.now)), None)
        if asked is not None:
            network.result.messages += 1
            network.at(self._way(asked), partial(self._arrive, place, asked, self.ask))

    def _way(self, coordinator: Node) -> float:
        return 0.0 if coordinator is self.node else LATENCY

    def _arrive(self, place: int, coordinator: Node, ask: Ask) -> None:
        network = self.network
        timeout = max(self.started + ASK_TIMEOUT - network.now, 0.0)
        if coordinator.state is State.CRASHED:
            network.later(partial(self._fail, place, coordinator))
            return
        pause = coordinator.paused_until - network.now
        if not coordinator.alive or pause >= timeout:
            network.at(timeout, partial(self._silence, place, coordinator))
        if pause > 0:
            network.at(pause, partial(self._ask, place, coordinator, ask, late=pause >= timeout))
        else:
            self._ask(place, coordinator, ask, late=False)

    def _ask(self, place: int, coordinator: Node, ask: Ask, *, late: bool) -> None:
        """What is asked of one that pauses is heard all the same."""
        answer = self.network.ask(coordinator, self.node.peer, ask)
        if answer is not None and not late:
            self.network.at(self._way(coordinator), partial(self._reply, place, answer))

    def _fail(self, place: int, coordinator: Node) -> None:
        self.node.silences.failed(coordinator.peer.id, self.network.now)
        self._reply(place, None)

    def _silence(self, place: int, coordinator: Node) -> None:
        self.node.silences.timed_out(coordinator.peer.id, self.network.now)
        self._reply(place, None)

    def _reply(self, place: int, answer: Answer | None) -> None:
        if answer is not None and place >= 0:
            self.node.silences.heard(self.coordinators[place].peer.id)
        if place == _STAND_IN:
            self.decisive = answer
        elif place >= 0:
            self.replies[place] = answer
        self._judge()

    def _judge(self) -> None:
        if self.answered is None:
            return
        elapsed = self.network.now - self.started + 1e-9
        judged = judge(self.replies, len(self.coordinators), elapsed, self.silent, self.decisive)
        if isinstance(judged, Counts):
            answered, self.answered = self.answered, None
            answered(judged.answer)
            return
        if elapsed >= self.stand_in.next_at(self.replies):
            self._ask_stand_in(_STAND_IN if self.stand_in.asked() else _UNHEARD)
        until = min(judged.until, self.stand_in.next_at(self.replies))
        if until != self.listens:
            self.listens = until
            self.network.at(until - elapsed + 1e-9, self._judge)


class Network:
    """The clock, the links and the upstream."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = Random(scenario.seed)
        self.now = 0.0
        self.result = Result()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        slow = int(scenario.nodes * scenario.slow_share)
        links = [scenario.slow_link] * slow + [scenario.link] * (scenario.nodes - slow)
        self.random.shuffle(links)
        self.nodes = [Node(self, number, link) for number, link in enumerate(links)]
        self.by_id = {node.peer.id: node for node in self.nodes}
        self.flows: set[Pull] = set()  # pulls with a feed, or from upstream
        self._ordered: list[Pull] | None = None
        self._coordinators: dict[bytes, list[Node]] = {}
        self.upstream_bytes = 0.0
        self.left = 0

    # Time

    def at(self, delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._numbers), action))

    def later(self, action: Callable[[], object]) -> None:
        self.at(LATENCY, action)

    def run(self) -> None:
        step, ticks = self.scenario.step, 0
        while self.left > 0 and self.now < self.scenario.limit:
            ticks += 1
            end = ticks * step
            while self._events and self._events[0][0] <= end:
                self.now, _, action = heapq.heappop(self._events)
                action()
            self.now = end
            self._flow(step)

    # Messages

    def candidates(self, key: bytes) -> list[Node]:
        """The closest nodes that are not known to be gone, the closest first."""
        ordered = self._coordinators.get(key)
        if ordered is None:
            target = int.from_bytes(key)
            ordered = sorted(self.nodes, key=lambda node: int.from_bytes(node.peer.id) ^ target)
            self._coordinators[key] = ordered
        return [node for node in ordered[:64] if node.alive or self.now - node.failed_at < NOTICED][:CANDIDATES]

    def coordinators(self, key: bytes, silences: Silences | None = None) -> list[Node]:
        """The two closest nodes, the closest first; more where both are silent."""
        known = self.candidates(key)
        chosen = known[:COORDINATORS]
        if silences is not None and all(silences.has(node.peer.id, self.now) for node in chosen):
            others = [node for node in known if not silences.has(node.peer.id, self.now)]
            chosen += others[:COORDINATORS]
        return chosen

    def _is_deputy(self, node: Node, key: bytes) -> bool:
        """Whether exactly one node is closer to the key that is not known to be gone."""
        return node in self.coordinators(key)[1:]

    def ask(self, node: Node, sender: Peer, ask: Ask) -> Answer | None:
        """What the node's coordinator answers; None where the node is gone."""
        if not node.alive:
            return None
        if self.scenario.wire:
            ask = decode_ask(encode_ask(ask))
        if ask.key not in node.learned:
            # What the provider records say when a coordinator first hears of a key.
            node.learned.add(ask.key)
            holders = [n.peer for n in self.nodes if n.alive and ask.key in n.pulls and n.pulls[ask.key].committed]
            if holders:
                node.coordinator.provided(ask.key, holders[:20], self.now)
        answer: Answer
        match ask:
            case Join():
                answer = node.coordinator.join(sender, ask, self.now, deputy=self._is_deputy(node, ask.key))
            case Renew():
                answer = node.coordinator.renew(sender, ask, self.now)
            case Leave():
                answer = node.coordinator.leave(sender, ask, self.now)
        return decode_answer(encode_answer(answer)) if self.scenario.wire else answer

    # Bytes

    def feed(self, pull: Pull, source: Pull) -> None:
        self.unfeed(pull)
        pull.feed = source
        source.followers.add(pull)
        pull.level = source.level + 1
        self.flows.add(pull)
        self._ordered = None

    def unfeed(self, pull: Pull) -> None:
        if pull.feed is not None:
            pull.feed.followers.discard(pull)
        pull.feed, pull.upstream, pull.rate = None, False, 0.0
        self.flows.discard(pull)
        self._ordered = None

    def fetch(self, pull: Pull) -> None:
        """containerd asks upstream; the first byte comes a little later."""
        self.result.upstream_fetches += 1

        def begin() -> None:
            if pull.node.alive and not pull.committed:
                self.unfeed(pull)
                pull.upstream = True
                pull.level = 0
                self.flows.add(pull)
                self._ordered = None

        self.at(self.scenario.upstream_latency, begin)

    def _order(self) -> list[Pull]:
        """Sources before their followers; the levels anew."""
        ordered: list[Pull] = []
        waiting = [pull for pull in self.flows if pull.upstream or (pull.feed and pull.feed not in self.flows)]
        waiting.sort(key=lambda pull: pull.node.peer.id)
        while waiting:
            ordered += waiting
            following: list[Pull] = []
            for pull in waiting:
                for follower in pull.followers:
                    follower.level = pull.level + 1
                    following.append(follower)
            following.sort(key=lambda pull: pull.node.peer.id)
            waiting = following
        return ordered

    def _flow(self, step: float) -> None:
        """Share the links for one step; sources come first, so that bytes go through many nodes in one step."""
        if self._ordered is None:
            self._ordered = self._order()
        fetches = self._open_links(step)
        upstream_left = self.scenario.upstream * step
        done = []
        for pull in self._ordered:
            node, feed = pull.node, pull.feed
            share = node.down_left / node.in_left
            node.in_left -= 1
            if feed is None:
                most = self.scenario.upstream * step if self.scenario.per_connection else upstream_left / fetches
                fetches -= 1
                moved = min(share, most, pull.total - pull.offset)
                upstream_left -= moved
                self.upstream_bytes += moved
            else:
                moved = self._from_peer(pull, feed, share)
            pull.rate = moved / step
            if moved > 0.0 and self._arrived(pull, moved):
                done.append(pull)
        for pull in done:
            if pull.node.alive:
                pull.node.completed(pull)

    def _open_links(self, step: float) -> int:
        """What each link may carry in this step and by how many it is shared; return how many fetch upstream."""
        assert self._ordered is not None
        fetches = 0
        for pull in self._ordered:
            for node in (pull.node, pull.feed.node) if pull.feed is not None else (pull.node,):
                node.up_left = node.down_left = node.link * step
                node.in_left = node.out_left = 0
        for pull in self._ordered:
            pull.node.in_left += 1
            if pull.feed is not None:
                pull.feed.node.out_left += 1
            else:
                fetches += 1
        return fetches

    def _from_peer(self, pull: Pull, feed: Pull, share: float) -> float:
        """Bytes from a source's uplink: what it has for longer than a latency."""
        source = feed.node
        most = source.up_left / source.out_left
        source.out_left -= 1
        if not source.alive or not pull.node.alive:
            return 0.0
        moved = max(0.0, min(share, most, feed.offset - feed.rate * LATENCY - pull.offset))
        source.up_left -= moved
        self.result.longest_wait = max(self.result.longest_wait, self.now - pull.grew_at if moved else 0.0)
        return moved

    def _arrived(self, pull: Pull, moved: float) -> bool:
        """Bytes reached a node; return whether these were the last."""
        pull.node.down_left -= moved
        pull.offset += moved
        pull.grew_at = self.now
        if pull.feed is None and not pull.announced:
            pull.node.lead_grew(pull)
        if pull.total - pull.offset >= 0.5:
            return False
        pull.offset = pull.total
        return True

    # Faults

    def fail(self, node: Node, state: State) -> None:
        if not node.alive or node.ended < math.inf:
            return
        node.state, node.failed_at = state, self.now
        self.result.surviving -= 1
        self.left -= 1
        if state is State.CRASHED:
            self.at(3 * LATENCY, partial(self._lost, node))  # what it has sent arrives before
        for pull in node.pulls.values():
            self.unfeed(pull)
            if state is State.CRASHED:
                for follower in list(pull.followers):
                    self.later(partial(follower.node.source_ended, follower, pull))

    def _lost(self, node: Node) -> None:
        """Every node has lost its connection to this one."""
        for other in self.nodes:
            other.coordinator.forget_peer(node.peer.id)

    def finished(self, node: Node) -> None:
        self.left -= 1

    def count(self, reason: str) -> None:
        self.result.reasons[reason] = self.result.reasons.get(reason, 0) + 1


def simulate(nodes: int = 1000, **changes: object) -> Result:
    """Run one scenario; `changes` are fields of Scenario."""
    return run(Scenario(nodes=nodes, **changes))  # type: ignore[arg-type]


def run(scenario: Scenario) -> Result:
    """Every node pulls the image (or both, in opposite order); return what that showed."""
    network = Network(scenario)
    result, random = network.result, network.random
    image = [(sha256(f"layer {n}".encode()).digest(), size) for n, size in enumerate(scenario.layers)]
    second = [(sha256(f"second {n}".encode()).digest(), size) for n, size in enumerate(scenario.layers)]
    images = [image, second] if scenario.two_images else [image]
    size = sum(scenario.layers) * len(images)
    result.single = _single(scenario)
    for number, node in enumerate(network.nodes):
        order = images if number % 2 == 0 else images[::-1]
        network.at(random.uniform(0, scenario.stagger), partial(node.start, order))
    network.left = result.surviving = scenario.nodes
    within = scenario.fail_within or 2 * result.single
    failing = random.sample(network.nodes, round(scenario.nodes * scenario.fail))
    if scenario.fail_coordinators:
        failing = list(dict.fromkeys((*network.coordinators(image[0][0]), *failing)))
    for number, node in enumerate(failing):
        state = State.CRASHED if number % 2 == 0 else State.FROZEN
        network.at(random.uniform(0, within), partial(network.fail, node, state))
    for node in network.nodes if scenario.pause else ():
        network.at(random.uniform(0, scenario.pause_within), partial(node.pause, random.uniform(0, scenario.pause)))
    network.run()
    ends = sorted(node.ended - node.started for node in network.nodes if node.ended < math.inf)
    survivors = [node for node in network.nodes if node.alive]
    result.finished = sum(node.ended < math.inf for node in survivors)
    result.surviving = len(survivors)
    result.broken = sum(pull.broken for node in network.nodes for pull in node.pulls.values())
    result.slowest, result.median = (ends[-1], ends[len(ends) // 2]) if ends else (math.inf, math.inf)
    result.upstream_ratio = network.upstream_bytes / size
    if math.isnan(result.single):
        result.single = result.slowest
    return result


def _single(scenario: Scenario) -> float:
    """Seconds of one node that pulls the same alone, without faults."""
    if scenario.nodes == 1:
        return math.nan
    return run(
        replace(scenario, nodes=1, fail=0.0, fail_coordinators=False, stagger=0.0, slow_share=0.0, pause=0.0)
    ).slowest
