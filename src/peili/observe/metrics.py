"""Prometheus metrics of one node, in a registry of their own.

Label values that come from outside (the upstream registry's name) are bounded in number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from peili.follow.message import Answer, Ask, Join, Leave, Renew
from peili.http.server import ServerStatistics
from peili.mirror.failure import FailureKind
from peili.observe.follow_words import brief, name_of
from peili.oci.digest import Digest
from peili.registry.record import ByteSource, Handler, Outcome, RequestRecord
from peili.registry.uploads import NO_PLACE
from peili.routing.protocol import Provider, RouterStatistics
from peili.store.protocol import Kind, StoreStatistics
from peili.version import VERSION

# A client can name any registry in `ns`; beyond this many they are counted together.
MAXIMUM_REGISTRY_LABELS = 64
OTHER_REGISTRY = "other"
# Why a held response ended before its last byte (mirror/held.py, follow/source_choice.py).
LEFT_REASONS = ("no coordinator", "no growth", "too many tries", "slots")
# Who is sent content, and from where: a peer's request is never passed on, so peers are sent nothing of peers.
SENT = (
    (Handler.MIRROR, ByteSource.LOCAL),
    (Handler.MIRROR, ByteSource.PEER),
    (Handler.SERVE, ByteSource.LOCAL),
    (Handler.SERVE, ByteSource.GROWING),
)
_RESOLVE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WHOLE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_log = structlog.get_logger()
# A time of creation beside each counter doubles the page and nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts what happens; also the mirror's Observer."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registries: set[str] = set()
        self._build_requests()
        self._build_transfers()

    def _build_requests(self) -> None:
        self._requests = Counter(
            "peili_requests",
            "Requests answered at the registry endpoint.",
            ["handler", "outcome"],
            registry=self._registry,
        )
        # increase() and rate() take nothing from the first value of a series, so a total has to be there at 0
        # before anything happens. What a series is made for only when it is needed cannot be: the next one.
        for handler, outcome in itertools.product(Handler, Outcome):
            self._requests.labels(handler, outcome)
        self._requests_by_registry = Counter(
            "peili_requests_by_registry",
            "The same requests in detail; each series begins with its first request.",
            ["handler", "kind", "registry", "outcome", "status"],
            registry=self._registry,
        )
        self._resolve = Histogram(
            "peili_resolve_duration_seconds",
            "Time until the first provider of a key was found.",
            buckets=_RESOLVE_BUCKETS,
            registry=self._registry,
        )
        self._first_byte = Histogram(
            "peili_first_byte_duration_seconds",
            "Time from a request's head to the head of its answer, for content that was delivered.",
            ["handler", "source"],
            buckets=_RESOLVE_BUCKETS,
            registry=self._registry,
        )
        self._duration = Histogram(
            "peili_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["handler", "outcome"],
            buckets=_WHOLE_BUCKETS,
            registry=self._registry,
        )

    def _build_transfers(self) -> None:
        self._sent = Counter(
            "peili_sent_bytes",
            "Bytes of content sent: served to peers, or to this node's containerd (from local or from peers).",
            ["handler", "source"],
            registry=self._registry,
        )
        for handler, source in SENT:
            self._sent.labels(handler, source)
        self._sent_by_registry = Counter(
            "peili_sent_bytes_by_registry",
            "The same bytes by upstream registry; each series begins with its first request.",
            ["handler", "source", "registry"],
            registry=self._registry,
        )
        self._missed = Counter(
            "peili_missed_bytes",
            "Bytes that this node's containerd fetched upstream after no peer could give them.",
            registry=self._registry,
        )
        self._uploads_refused = Counter(
            "peili_uploads_refused",
            "Requests of peers for large blobs that were refused because --max-uploads were being sent.",
            registry=self._registry,
        )
        self._hedges = Counter(
            "peili_hedges", "Second attempts started beside a slow one.", registry=self._registry
        )
        self._resumes = Counter(
            "peili_resumes", "Bodies that went on from another provider.", registry=self._registry
        )
        self._thrown_away = Counter(
            "peili_bodies_thrown_away",
            "Large blobs from peers that containerd did not commit and asked for anew; their providers are banned.",
            registry=self._registry,
        )
        self._failures = Counter(
            "peili_provider_failures",
            "Attempts at a provider that brought nothing, or not all.",
            ["kind"],
            registry=self._registry,
        )
        for kind in FailureKind:
            self._failures.labels(kind)
        self._build_follow()
        info = Gauge("peili_info", "The version that runs.", ["version"], registry=self._registry)
        info.labels(VERSION).set(1)

    def _build_follow(self) -> None:
        self._asks = Counter(
            "peili_follow_asks",
            "Messages to the coordinators of a digest in flight.",
            ["ask"],
            registry=self._registry,
        )
        for ask in (Join, Renew, Leave):
            self._asks.labels(name_of(ask))
        self._leads = Counter(
            "peili_follow_leads",
            "Digests that this node's containerd fetched upstream while others could follow.",
            registry=self._registry,
        )
        self._follows = Counter(
            "peili_follow_follows", "Sources of the tree that were taken.", registry=self._registry
        )
        self._depth = Gauge(
            "peili_follow_depth",
            "This node's hops from upstream when it last took a source; 1: from the leader.",
            registry=self._registry,
        )
        self._growing = Counter(
            "peili_follow_growing_bytes",
            "Bytes taken from blobs that were still growing on their source: each is spared upstream.",
            registry=self._registry,
        )
        self._left = Counter(
            "peili_follow_left_to_upstream",
            "Layers that were not, or not to the end, taken from the tree though no coordinator said lead.",
            ["reason"],
            registry=self._registry,
        )
        for reason in LEFT_REASONS:
            self._left.labels(reason)

    def observe(
        self,
        *,
        router: Callable[[], RouterStatistics],
        store: Callable[[], StoreStatistics],
        provided: Callable[[Mapping[Kind, int]], Mapping[Kind, int]],
        server: Callable[[], ServerStatistics],
        ready: Callable[[], bool],
        tasks: Callable[[], int],
    ) -> None:
        """Read these snapshots whenever the metrics are asked for.

        `provided`: of the keys that the store holds, by kind, those that the router was told of.
        """
        self._registry.register(_Snapshots(router, store, provided, server, ready, tasks))

    def request(self, record: RequestRecord) -> None:
        """Count one answered request."""
        if record.reason == NO_PLACE:  # not the 503 of --fan-out: whoever follows is sent to others by design
            self._uploads_refused.inc()
        registry = self._registry_label(record.registry)
        self._requests.labels(record.handler, record.outcome).inc()
        self._requests_by_registry.labels(
            record.handler, record.kind, registry, record.outcome, str(record.status)
        ).inc()
        self._duration.labels(record.handler, record.outcome).observe(record.seconds)
        if record.source is not ByteSource.NONE:
            self._first_byte.labels(record.handler, record.source).observe(record.first_byte_seconds)
            self._sent.labels(record.handler, record.source).inc(record.size)
            self._sent_by_registry.labels(record.handler, record.source, registry).inc(record.size)
        if record.attempts or (record.handler is Handler.MIRROR and record.outcome is Outcome.MISS):
            self._resolve.observe(record.resolve_seconds)

    def missed(self, size: int) -> None:
        """So many bytes came from upstream after a miss here."""
        self._missed.inc(size)

    def attempt_failed(self, provider: Provider, kind: FailureKind, text: str) -> None:
        """A provider brought nothing, or not all."""
        self._failures.labels(kind).inc()

    def hedged(self) -> None:
        """A second provider was asked beside a slow one."""
        self._hedges.inc()

    def resumed(self) -> None:
        """A body goes on from another provider."""
        self._resumes.inc()

    def thrown_away(self, digest: Digest, providers: Collection[str]) -> None:
        """containerd threw away what it received of this digest: its providers are not believed any more."""
        self._thrown_away.inc()
        _log.warning("a peer's bytes were thrown away", digest=str(digest), providers=sorted(providers))

    def told(self, ask: Ask, answer: Answer | None) -> None:
        """Count a message to the coordinators; what they said is for the log at its most talkative."""
        self._asks.labels(name_of(type(ask))).inc()
        _log.debug("coordinators", key=ask.key.hex(), asked=brief(ask), told=brief(answer))

    def leading(self) -> None:
        """This node fetches a digest from upstream, for the others too."""
        self._leads.inc()

    def following(self, depth: int) -> None:
        """This node takes a digest from a source; `depth`: its own distance from upstream then."""
        self._follows.inc()
        self._depth.set(depth)

    def followed_bytes(self, count: int) -> None:
        """So many bytes came from blobs that were still growing on their source."""
        self._growing.inc(count)

    def left_to_upstream(self, reason: str) -> None:
        """A pull that could have followed goes upstream."""
        self._left.labels(reason).inc()

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def _registry_label(self, registry: str) -> str:
        if registry not in self._registries:
            if len(self._registries) >= MAXIMUM_REGISTRY_LABELS:
                return OTHER_REGISTRY
            self._registries.add(registry)
        return registry


class _Snapshots(Collector):
    def __init__(
        self,
        router: Callable[[], RouterStatistics],
        store: Callable[[], StoreStatistics],
        provided: Callable[[Mapping[Kind, int]], Mapping[Kind, int]],
        server: Callable[[], ServerStatistics],
        ready: Callable[[], bool],
        tasks: Callable[[], int],
    ) -> None:
        self._router, self._store, self._provided, self._server = router, store, provided, server
        self._ready, self._tasks = ready, tasks

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        router, store, server = self._router(), self._store(), self._server()
        connected = sum(peer.connected for peer in router.peers)
        for name, text, keys in (
            ("peili_store_keys", "Keys that this node holds, by kind.", store.keys),
            (
                "peili_provided_keys",
                "Keys that this node provides to its peers, by kind.",
                self._provided(store.keys),
            ),
        ):
            family = GaugeMetricFamily(name, text, labels=["kind"])
            for kind, count in keys.items():
                family.add_metric([kind], count)
            yield family
        relayed = CounterMetricFamily(
            "peili_relayed_bytes",
            "Bytes passed on from a peer's socket into a client's, by the way they took.",
            labels=["way"],
        )
        for way, size in server.relayed.items():
            relayed.add_metric([way], size)
        yield relayed
        for name, text, value in (
            ("peili_peers", "Peers that this node is connected to.", connected),
            ("peili_refused_peers", "Handshakes with peers that are no members.", router.refused_peers),
            ("peili_provider_records", "Provider records that this node keeps for others.", router.records),
            ("peili_store_bytes", "Bytes of content that this node holds.", store.bytes),
            ("peili_store_answering", "1 while the content store answers.", float(store.answering)),
            ("peili_connections", "Open connections at the registry endpoint.", server.connections),
            ("peili_transfers_in_flight", "Requests being answered now.", server.in_flight),
            ("peili_tasks", "Tasks inside the process: some of its own, a few for each connection.", self._tasks()),
            ("peili_ready", "1 when this node is ready.", float(self._ready())),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
