"""The metrics that really come out: of running nodes, and of one into which every kind of record was put once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families

from peili.demo.images import build_image
from peili.follow.message import KEY_LENGTH, Join, Leave, Renew
from peili.follow.message import Outcome as End
from peili.http.server import ServerStatistics
from peili.http.stages import Way
from peili.mirror.failure import FailureKind
from peili.observe.metrics import LEFT_REASONS, SENT, Metrics
from peili.registry.record import ByteSource, Handler, Outcome, RequestRecord
from peili.routing.protocol import PeerStatistics, Provider, RouterStatistics
from peili.store.protocol import Kind, StoreStatistics
from tests.fakes.processes import Node, cluster, wait_offered, wait_until


@dataclass(frozen=True, slots=True)
class Series:
    """One series: the name that a query uses, its family and type, its labels, and what it says."""

    name: str
    family: str
    type: str
    help: str
    labels: dict[str, str]
    value: float = 0.0


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
    for handler, outcome in itertools.product(Handler, Outcome):
        metrics.request(record(handler, outcome, ByteSource.NONE))
    for handler, source in SENT:
        metrics.request(record(handler, Outcome.HIT, source))
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
    observe(metrics)
    return metrics


def observe(metrics: Metrics) -> None:
    """Have it read snapshots."""
    peers = (PeerStatistics("peer", "10.0.0.7", 5, "peili", connected=True),)
    metrics.observe(
        router=lambda: RouterStatistics("kademlia", "me", (), peers, 3, 4, "", alone=False),
        store=lambda: StoreStatistics(
            "containerd", "1.6", synchronised=True, answering=True, problem="", keys=dict.fromkeys(Kind, 1), bytes=9
        ),
        provided=lambda held: dict.fromkeys(Kind, 1),
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


@dataclass(frozen=True, slots=True)
class Scraped:
    """/metrics of two running nodes of which one pulled from the other, and what it pulled."""

    puller: str
    holder: str
    from_peer: int  # bytes
    from_upstream: int  # bytes
    seconds: float  # that all of it took


def scraped(directory: Path) -> Scraped:
    """Run two nodes, have one of them pull, and read what both say; two seconds."""
    return trio.run(_scrape, directory)


async def _scrape(directory: Path) -> Scraped:
    shared, new = (build_image(seed, layer_sizes=(3_000_000, 5_000)) for seed in ("shared", "new"))
    async with cluster(directory) as made:
        upstream = await made.serve_upstream()
        for name, image in (("shared", shared), ("new", new)):
            upstream.push(f"team/{name}:1", image)
        [holder] = await made.start(1, images=[("registry.example/team/shared:1", shared)])
        [puller] = await made.start(1)
        await wait_until(lambda: _has(puller, "peili_peers", 1), "a peer")
        started = trio.current_time()
        await wait_offered(puller, "registry.example/team/shared:1", shared)
        pull = await made.pull(puller, "registry.example/team/shared:1")
        missed = await made.pull(puller, "registry.example/team/new:1")
        # Content is seen when it has come, and a request is counted after its answer.
        sizes = [sum(one.received.values()) for one in (pull, missed)]
        await wait_until(lambda: _has(puller, "peili_missed_bytes_total", sizes[1]), "all that was missed")
        await wait_until(lambda: _has(puller, "peili_transfers_in_flight", 0), "the end of all requests")
        texts = [(await node.ask("/metrics"))[1].decode() for node in (puller, holder)]
        assert (pull.received["peers"], missed.received["upstream"]) == tuple(sizes)
        return Scraped(texts[0], texts[1], sizes[0], sizes[1], trio.current_time() - started)


async def _has(node: Node, name: str, value: float) -> bool:
    return await node.metric(name) == value


def series(text: str) -> list[Series]:
    """All series, as Prometheus would read them from this answer of /metrics."""
    found = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            found.append(Series(sample.name, family.name, family.type, family.documentation, labels, sample.value))
    return found
