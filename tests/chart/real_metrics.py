"""The metrics that really come out of a node: every kind of record put in once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from peili.follow.message import KEY_LENGTH, Join, Leave, Renew
from peili.follow.message import Outcome as End
from peili.http.server import ServerStatistics
from peili.http.stages import Way
from peili.mirror.failure import FailureKind
from peili.observe.metrics import LEFT_REASONS, Metrics
from peili.registry.record import ByteSource, Handler, Outcome, RequestRecord
from peili.routing.protocol import PeerStatistics, Provider, RouterStatistics
from peili.store.protocol import Kind, StoreStatistics


@dataclass(frozen=True, slots=True)
class Series:
    """One series: the name that a query uses, its family and type, and its labels."""

    name: str
    family: str
    type: str
    help: str
    labels: dict[str, str]


def record(handler: Handler, outcome: Outcome, source: ByteSource, size: int = 10) -> RequestRecord:
    """A request for a blob."""
    return RequestRecord(
        at=1.0,
        handler=handler,
        method="GET",
        kind="blob",
        registry="docker.io",
        repository="library/debian",
        name="sha256:" + "ab" * 32,
        client="127.0.0.1:5",
        status=200,
        outcome=outcome,
        source=source,
        reason="",
        size=size,
        providers=("10.0.0.7:5",),
        attempts=1,
        resumes=0,
        resolve_seconds=0.01,
        first_byte_seconds=0.01,
        seconds=0.02,
    )


def busy_metrics() -> Metrics:
    """Metrics of a node that saw everything once."""
    metrics = Metrics()
    for handler, outcome, source in itertools.product(Handler, Outcome, ByteSource):
        metrics.request(record(handler, outcome, source))
    provider = Provider("peer", "10.0.0.7", 5)
    for kind in FailureKind:
        metrics.attempt_failed(provider, kind, "")
    metrics.missed(5)
    metrics.hedged()
    metrics.resumed()
    for reason in LEFT_REASONS:
        metrics.left_to_upstream(reason)
    key = bytes(KEY_LENGTH)
    for ask in (Join(key), Renew(key, 1), Leave(key, End.COMMITTED)):
        metrics.told(ask, None)
    peers = (PeerStatistics("peer", "10.0.0.7", 5, "peili", connected=True),)
    metrics.observe(
        router=lambda: RouterStatistics("kademlia", "me", (), peers, 3, 4, "", alone=False),
        store=lambda: StoreStatistics(
            "containerd", "1.6", synchronised=True, answering=True, problem="", keys=dict.fromkeys(Kind, 1), bytes=9
        ),
        provided=lambda: dict.fromkeys(Kind, 1),
        server=lambda: ServerStatistics(
            connections=1,
            clients=1,
            in_flight=1,
            requests=1,
            accepted=1,
            refused=0,
            bad_requests=0,
            accept_errors=0,
            relayed=dict.fromkeys(Way, 1),
        ),
        ready=lambda: True,
        tasks=lambda: 1,
    )
    return metrics


def series(metrics: Metrics) -> list[Series]:
    """All series, as Prometheus would read them from /metrics."""
    found = []
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.append(Series(sample.name, family.name, family.type, family.documentation, dict(sample.labels)))
    return found
