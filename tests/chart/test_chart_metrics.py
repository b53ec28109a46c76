"""Every query of the dashboard and of the alerts asks for series that really come out, and the docs name all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peili.observe.metrics import Metrics
from tests.chart.promql import NotPromQL, Query, Selector, parse
from tests.chart.real_metrics import Scraped, Series, busy_metrics, observe, scraped, series
from tests.chart.rendering import Chart
from tests.chart.scenarios import SCENARIOS

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"
# Labels that Prometheus or the ServiceMonitor adds to each series of a node.
TARGET_LABELS = {"namespace", "job", "node", "instance", "pod"}
# A series that Prometheus makes itself for each target.
PROMETHEUS = Series("up", "up", "gauge", "", {})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    return scraped(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(
    name="real", scope="module", params=["all that can be", pytest.param("running", marks=pytest.mark.slow)]
)
def real_series(request: pytest.FixtureRequest) -> list[Series]:
    """What comes out of a node that saw everything, and of two that run."""
    if request.param == "running":
        both: Scraped = request.getfixturevalue("running")
        return [*series(both.puller), *series(both.holder), PROMETHEUS]
    return [*series(busy_metrics().render().decode()), PROMETHEUS]


@pytest.mark.slow
def test_running_nodes_count_what_was_pulled(running: Scraped) -> None:
    def value(text: str, name: str, **labels: str) -> float:
        found = [one.value for one in series(text) if one.name == name and one.labels.items() >= labels.items()]
        assert found, name
        return sum(found)

    puller, holder = running.puller, running.holder
    assert value(puller, "peili_sent_bytes_total", handler="mirror", source="peer") == running.from_peer
    assert value(puller, "peili_sent_bytes_total", handler="mirror", source="local") == 0
    assert value(holder, "peili_sent_bytes_total", handler="serve", source="local") >= running.from_peer
    assert value(puller, "peili_missed_bytes_total") == running.from_upstream
    for name, labels in (
        ("peili_resolve_duration_seconds", {}),
        ("peili_first_byte_duration_seconds", {"handler": "mirror", "source": "peer"}),
        ("peili_request_duration_seconds", {"handler": "mirror", "outcome": "hit"}),
    ):
        count = value(puller, f"{name}_count", **labels)
        assert count >= 4, name  # manifest, config, two layers
        assert value(puller, f"{name}_bucket", le="+Inf", **labels) == count
        assert 0 < value(puller, f"{name}_sum", **labels) < count * running.seconds, name
    hits = value(puller, "peili_requests_total", handler="mirror", outcome="hit")
    assert value(puller, "peili_first_byte_duration_seconds_count", handler="mirror") == hits
    assert value(puller, "peili_request_duration_seconds_sum", outcome="hit") >= value(
        puller, "peili_first_byte_duration_seconds_sum", handler="mirror"
    )


def test_all_totals_are_there_before_anything_happens() -> None:
    """What they gain first is lost to increase() otherwise."""

    def counters(metrics: Metrics) -> dict[str, float]:
        return {
            f"{one.name}{sorted(one.labels.items())}": one.value
            for one in series(metrics.render().decode())
            if one.type == "counter" and one.name.startswith("peili_") and "_by_registry" not in one.name
        }

    fresh = Metrics()
    observe(fresh)
    before, after = counters(fresh), counters(busy_metrics())
    assert before.keys() == after.keys()
    assert {name for name, value in before.items() if value} == {
        name
        for name in before
        if name.startswith("peili_relayed")  # a snapshot, of what `observe` gives
    }


def test_the_tokenizer_finds_series_matchers_and_grouping() -> None:
    text = (
        'histogram_quantile(0.9, sum by (le, node) (rate(a_bucket{x="1",y=~"b|c"}[5m]))) > 2e9 and on (job) up == 0'
    )
    selectors = (Selector("a_bucket", (("x", "=", "1"), ("y", "=~", "b|c"))), Selector("up", ()))
    assert parse(text) == Query(selectors, ("le", "node", "job"))


@pytest.mark.parametrize("text", ["sum(a", "a{b}", "surprise(a)", "a ; b", 'a{b="c]', "a)", 'a{"b"="c"}'])
def test_the_tokenizer_refuses_what_is_no_query(text: str) -> None:
    with pytest.raises(NotPromQL):
        parse(text)


def matches(labels: dict[str, str], matcher: tuple[str, str, str]) -> bool:
    name, operator, value = matcher
    is_same = re.fullmatch(value, labels.get(name, "")) if "~" in operator else labels.get(name, "") == value
    return bool(is_same) is (operator in ("=", "=~"))


def objection(text: str, real: list[Series]) -> str:
    """What is wrong with a query; empty where every part of it finds something."""
    query = parse(text)
    known = set(TARGET_LABELS)
    for selector in query.selectors:
        named = [one for one in real if one.name == selector.metric]
        if not named:
            return f"no metric {selector.metric}"
        known |= {label for one in named for label in one.labels}
        own = [matcher for matcher in selector.matchers if matcher[0] not in TARGET_LABELS]
        for matcher in own:
            if matcher[0] not in known:
                return f"{selector.metric} has no label {matcher[0]}"
            # Each alternative has to occur, or a name is misspelled.
            for value in matcher[2].split("|"):
                if not any(matches(one.labels, (matcher[0], "=", value)) for one in named):
                    return f"{selector.metric} has no {matcher[0]}={value}"
        if not any(all(matches(one.labels, matcher) for matcher in own) for one in named):
            return f"no series of {selector.metric} fits {own}"
    unknown = [label for label in query.grouping if label not in known]
    return f"grouped by {unknown}" if unknown else ""


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("rate(peili_misses_total[5m])", "no metric"),
        ('peili_requests_total{outcom="hit"}', "no label"),
        ('peili_requests_total{outcome=~"hit|mist"}', "has no outcome=mist"),
        ("sum by (sauce) (peili_sent_bytes_total)", "grouped by"),
        ("peili_sent_bytes", "no metric"),
        ('sum by (job) (peili_ready{namespace="x"})', ""),
    ],
)
def test_a_wrong_query_is_seen(real: list[Series], query: str, problem: str) -> None:
    assert objection(query, real).find(problem) >= 0
    assert bool(objection(query, real)) is bool(problem)


def dashboard(chart: Chart) -> dict[str, Any]:
    (text,) = chart.render(SCENARIOS["monitoring"]).one("ConfigMap", "peili-dashboard")["data"].values()
    document: dict[str, Any] = json.loads(text)
    return document


def panels(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in document["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Title, query and legend of each target."""
    for panel in panels(document):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.slow
def test_every_query_of_the_dashboard_finds_series(chart: Chart, real: list[Series]) -> None:
    found = list(queries(dashboard(chart)))
    assert len(found) > 25
    for title, text, legend in found:
        assert objection(text, real) == "", title
        labels = set(re.findall(r"{{(\w+)}}", legend))
        selected = [one for part in parse(text).selectors for one in real if one.name == part.metric]
        grouping = set(parse(text).grouping)
        assert labels <= (grouping or TARGET_LABELS.union(*(one.labels for one in selected))), title
        for selector in parse(text).selectors:
            matched = {label: value for label, _, value in selector.matchers}
            assert (matched["namespace"], matched["job"]) == ("$namespace", "$job"), title


@pytest.mark.slow
def test_the_dashboard_can_be_drawn(chart: Chart) -> None:
    document = dashboard(chart)
    all_panels = list(panels(document))
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    taken: set[tuple[int, int]] = set()
    for panel in all_panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
    known = {variable["name"] for variable in document["templating"]["list"]}
    text = json.dumps(document)
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == known
    assert not re.findall("PEILI_[A-Z]+", text)
    values = {variable["name"]: variable["query"] for variable in document["templating"]["list"]}
    assert (values["namespace"], values["job"]) == ("peili-system", "peili-operations")


def alerts(chart: Chart) -> list[dict[str, Any]]:
    (group,) = chart.render(SCENARIOS["monitoring"]).one("PrometheusRule")["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.slow
def test_every_alert_asks_for_series_of_its_own_release(chart: Chart, real: list[Series]) -> None:
    assert len(alerts(chart)) > 10
    for alert in alerts(chart):
        assert objection(alert["expr"], real) == "", alert["alert"]
        for selector in parse(alert["expr"]).selectors:
            matched = {label: value for label, _, value in selector.matchers}
            assert (matched["namespace"], matched["job"]) == ("peili-system", "peili-operations"), alert["alert"]


@pytest.mark.slow
def test_every_alert_says_where_and_what_to_do(chart: Chart) -> None:
    for alert in alerts(chart):
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        about = alert["annotations"]
        assert about.keys() == {"summary", "description"}
        assert all(text.endswith(".") for text in about.values())
        # Only labels that the result still has.
        grouping = parse(alert["expr"]).grouping
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(about.values())))
        if grouping and "on (" not in alert["expr"]:
            assert named <= set(grouping), alert["alert"]


@pytest.mark.slow
def test_the_memory_alert_knows_the_limit(chart: Chart) -> None:
    def limit(memory: str) -> list[str]:
        values = {"prometheusRule": {"enabled": True}, "resources": {"limits": {"memory": memory}}}
        (group,) = chart.render(values).one("PrometheusRule")["spec"]["groups"]
        return [
            rule["expr"].rpartition("* ")[2] for rule in group["rules"] if rule["alert"] == "PeiliMemoryNearLimit"
        ]

    assert [limit(text) for text in ("128Mi", "1G", "4096")] == [["134217728"], ["1000000000"], ["4096"]]


def documented() -> dict[str, tuple[str, set[str]]]:
    """The table's rows: a metric's type and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| .+ \|$", DOCUMENT.read_text(), re.M)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_query_of_the_document_finds_series(real: list[Series]) -> None:
    asked = DOCUMENT.read_text().partition("## What to ask")[2].partition("##")[0]
    found = re.findall(r"`(\w.*?)`", asked)
    assert len(found) >= 8
    for query in found:
        assert objection(query, real) == "", query


def test_the_document_names_every_metric_with_its_type_and_labels(real: list[Series]) -> None:
    expected: dict[str, tuple[str, set[str]]] = {}
    for one in real:
        if one is PROMETHEUS:
            continue
        name = f"{one.family}_total" if one.type == "counter" else one.family
        labels = expected.get(name, ("", set()))[1] | (one.labels.keys() - {"le"})
        expected[name] = (one.type, labels)
    assert documented() == expected


def test_the_document_explains_every_value_of_a_label(real: list[Series]) -> None:
    text = DOCUMENT.read_text()
    for label in ("handler", "outcome", "source", "way", "kind", "ask", "reason"):
        for value in sorted({one.labels[label] for one in real if label in one.labels}):
            assert f"`{value}`" in text, f"{label}={value}"
