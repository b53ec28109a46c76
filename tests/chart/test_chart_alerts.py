"""Alerts and dashboard in Prometheus' own hands: promtool parses every query and plays stories to the alerts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peili.observe.metrics import Metrics
from peili.registry.record import ByteSource, Handler, Outcome
from tests.chart.real_metrics import record
from tests.chart.rendering import Chart
from tests.chart.scenarios import SCENARIOS

pytestmark = pytest.mark.slow
TIMEOUT = 120.0  # seconds
RELEASE = {"namespace": "peili-system", "job": "peili-operations"}
OF_RELEASE = ",".join(f'{name}="{value}"' for name, value in RELEASE.items())
NODES = ("a", "b")


@dataclass(frozen=True)
class Story:
    """What an alert is about: series that make it fire by `minute`, and what is changed so that it stays quiet.

    Series are named without the labels of the release, values are written as promtool takes them (one a minute).
    """

    alert: str
    minute: int
    fires: Mapping[str, str]
    quiet: Mapping[str, str]


TWO_NODES = {'peili_info{node="a",version="1"}': "1x600", 'peili_info{node="b",version="1"}': "1x600"}
FAILURES = 'peili_provider_failures_total{node="a",kind="%s"}'
HITS = 'peili_requests_total{node="a",handler="mirror",outcome="hit"}'
TO_CONTAINERD = 'peili_sent_bytes_total{node="a",handler="mirror",source="%s"}'
START = 'process_start_time_seconds{node="a"}'
STORIES = [
    Story("PeiliNodeUnready", 16, {'peili_ready{node="a"}': "0x20"}, {'peili_ready{node="a"}': "0x10 1x10"}),
    Story("PeiliNodeSilent", 16, {'up{node="a"}': "0x20"}, {'up{node="a"}': "1x20"}),
    Story(
        "PeiliContentStoreSilent",
        6,
        {'peili_store_answering{node="a"}': "0x20"},
        {'peili_store_answering{node="a"}': "1x20"},
    ),
    Story("PeiliNodeAlone", 11, {'peili_peers{node="a"}': "0x20", **TWO_NODES}, {'peili_peers{node="a"}': "1x20"}),
    Story(
        "PeiliNodeAlone",
        11,
        {'peili_peers{node="a"}': "0x20", **TWO_NODES},
        {'peili_info{node="b",version="1"}': "stale"},  # a cluster of one is alone by nature
    ),
    Story(
        "PeiliSharesNothing",
        480,
        {'peili_missed_bytes_total{node="a"}': "0+100000000x500", TO_CONTAINERD % "local": "0+5x500", **TWO_NODES},
        {TO_CONTAINERD % "peer": "0+1000000x500"},
    ),
    Story(
        "PeiliSharesNothing",
        480,
        {'peili_missed_bytes_total{node="a"}': "0+100000000x500", TO_CONTAINERD % "peer": "0 7x500", **TWO_NODES},
        {'peili_missed_bytes_total{node="a"}': "0+1000000x500"},
    ),
    Story("PeiliWrongContent", 10, {FAILURES % "digest": "0 0 1x20"}, {FAILURES % "digest": "1x20"}),
    Story("PeiliPeersRefuse", 40, {FAILURES % "denied": "0+2x60"}, {FAILURES % "denied": "0 3x60"}),
    Story("PeiliPeersRefuse", 40, {FAILURES % "unproven": "0+2x60"}, {FAILURES % "unproven": "0x60"}),
    Story(
        "PeiliStrangers",
        61,
        {'peili_requests_total{node="a",handler="stranger"}': "0+5x70"},
        {'peili_requests_total{node="a",handler="stranger"}': "0+1x70"},
    ),
    Story(
        "PeiliStrangers",
        61,
        {'peili_refused_peers{node="a"}': "0+5x70"},
        {'peili_refused_peers{node="a"}': "0+1x70"},
    ),
    Story("PeiliTransfersFail", 40, {FAILURES % "stalled": "0+10x60", HITS: "0+10x60"}, {HITS: "0+100x60"}),
    Story(
        "PeiliTransfersFail",
        40,
        {FAILURES % "connect": "0+10x60", HITS: "0x60"},
        {FAILURES % "connect": "0+1x60"},
    ),
    Story(
        "PeiliTransfersFail",
        40,
        {FAILURES % "ended": "0+10x60", HITS: "0x60"},
        {FAILURES % "ended": "0x60", FAILURES % "busy": "0+10x60"},
    ),
    Story(
        "PeiliErrors",
        40,
        {'peili_requests_total{node="a",outcome="error"}': "0+1x60"},
        {'peili_requests_total{node="a",outcome="error"}': "0+1x2 2x60"},
    ),
    Story("PeiliRestarts", 60, {START: "1x10 2x10 3x10 4x10 5x30"}, {START: "1x30 2x60"}),
    Story(
        "PeiliVersionsMixed",
        370,
        {**TWO_NODES, 'peili_info{node="b",version="1"}': "stale", 'peili_info{node="b",version="2"}': "1x600"},
        {'peili_info{node="a",version="1"}': "1x60 stale", 'peili_info{node="a",version="2"}': "_x60 1x600"},
    ),
    Story(
        "PeiliDescriptorsNearLimit",
        11,
        {'process_open_fds{node="a"}': "900x20", 'process_max_fds{node="a"}': "1000x20"},
        {'process_max_fds{node="a"}': "65536x20"},
    ),
    Story(
        "PeiliMemoryNearLimit",
        16,
        {'process_resident_memory_bytes{node="a"}': "125000000x20"},
        {'process_resident_memory_bytes{node="a"}': "100000000x20"},
    ),
]


def rules(chart: Chart) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = chart.render(SCENARIOS["monitoring"]).one("PrometheusRule")["spec"]["groups"]
    return groups


def queries(chart: Chart) -> list[tuple[str, str]]:
    """The dashboard's, each with its panel's title."""
    (text,) = chart.render(SCENARIOS["monitoring"]).one("ConfigMap", "peili-dashboard")["data"].values()
    return [
        (panel["title"], target["expr"])
        for panel in json.loads(text)["panels"]
        for target in panel.get("targets", [])
    ]


def run(promtool: Path, *arguments: str | Path) -> str:
    done = subprocess.run([promtool, *arguments], check=False, capture_output=True, text=True, timeout=TIMEOUT)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_prometheus_takes_the_rules(chart: Chart, promtool: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": rules(chart)}))
    assert f"SUCCESS: {len(rules(chart)[0]['rules'])} rules" in run(promtool, "check", "rules", file)


def test_prometheus_takes_the_queries_of_the_dashboard(chart: Chart, promtool: Path, tmp_path: Path) -> None:
    found = queries(chart)
    file = tmp_path / "rules.yaml"
    group = [
        {"record": f"query:{number}", "expr": re.sub(r"\$__(rate_interval|range)", "5m", query)}
        for number, (_, query) in enumerate(found)
    ]
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": group}]}))
    assert f"SUCCESS: {len(found)} rules" in run(promtool, "check", "rules", file)


def test_every_alert_has_a_story(chart: Chart) -> None:
    assert {story.alert for story in STORIES} == {rule["alert"] for rule in rules(chart)[0]["rules"]}


def fires(alert: str) -> str:
    """A query for whether an alert fires."""
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'


def played(series: Mapping[str, str], minute: int, expected: Mapping[str, float | None]) -> dict[str, Any]:
    """A test of promtool: what queries (without labels) give in the end; None where they give nothing."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": name.replace("{", "{" + OF_RELEASE + ",", 1), "values": values}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": f"{minute}m",
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for query, value in expected.items()
        ],
    }


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.alert)
def test_an_alert_fires_when_it_should_and_only_then(
    chart: Chart, promtool: Path, tmp_path: Path, story: Story
) -> None:
    for firing, series in ((True, story.fires), (False, {**story.fires, **story.quiet})):
        play(chart, promtool, tmp_path, played(series, story.minute, {fires(story.alert): 1 if firing else None}))


def play(chart: Chart, promtool: Path, directory: Path, test: dict[str, Any]) -> None:
    """Have promtool run a test against the rules; what it expects is compared there."""
    (directory / "rules.yaml").write_text(json.dumps({"groups": rules(chart)}))
    file = directory / "test.yaml"
    file.write_text(json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}))
    run(promtool, "test", "rules", file)


def scraped(metrics: Metrics) -> dict[str, float]:
    """What Prometheus reads from node a: the value of each series."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = {"node": "a", **sample.labels}
            text = ",".join(f'{name}="{value}"' for name, value in labels.items())
            found[f"{sample.name}{{{text}}}"] = sample.value
    return found


def pull_between_two_scrapes(*sizes: int, missed: int) -> dict[str, str]:
    """The series of a node that started, pulled all of this between minutes 400 and 401, and then idled."""
    metrics = Metrics()
    before = scraped(metrics)
    for size in sizes:
        metrics.request(record(Handler.MIRROR, Outcome.HIT, ByteSource.PEER, size))
    metrics.request(record(Handler.MIRROR, Outcome.MISS, ByteSource.NONE, 0))
    metrics.missed(missed)
    # 15 digits are exact; promtool reads no exponents with a plus sign.
    return {
        name: f"{f'{before[name]:.15g}' if name in before else '_'}x400 {value:.15f}x100"
        for name, value in scraped(metrics).items()
        if name.startswith("peili_")
    }


def test_a_nodes_first_pull_counts_in_full_though_it_ends_before_the_next_scrape(
    chart: Chart, promtool: Path, tmp_path: Path
) -> None:
    """increase() takes nothing from the first value of a series: the totals have to be there before."""
    headline = {
        title: re.sub(r"\$(\w+)", lambda match: {"__range": "1h", "node": ".*", **RELEASE}[match[1]], query)
        for title, query in queries(chart)
        if title in ("Kept from upstream", "Share saved", "Fetched upstream", "Requests answered")
    }
    rounding = {"Kept from upstream": 1e9, "Fetched upstream": 1e9, "Share saved": 0.1, "Requests answered": 0.1}
    expected = {"Kept from upstream": 6e9, "Fetched upstream": 24e9, "Share saved": 0.2, "Requests answered": 0.7}
    # The edges of the range are extrapolated by some percent.
    asked: dict[str, float | None] = {
        f"round({headline[title]}, {rounding[title]})": value for title, value in expected.items()
    }
    series = pull_between_two_scrapes(5_000_000_000, 1_000_000_000, missed=24_000_000_000)
    play(chart, promtool, tmp_path, played(series, 420, asked))


@pytest.mark.parametrize(("sizes", "firing"), [((5_000_000_000,), None), ((), 1)], ids=["shared", "not shared"])
def test_a_pull_from_a_peer_between_two_scrapes_is_not_nothing(
    chart: Chart, promtool: Path, tmp_path: Path, sizes: tuple[int, ...], firing: float | None
) -> None:
    series = {
        **pull_between_two_scrapes(*sizes, missed=20_000_000_000),
        'peili_info{node="b",version="1"}': "1x600",
    }
    play(chart, promtool, tmp_path, played(series, 480, {fires("PeiliSharesNothing"): firing}))
