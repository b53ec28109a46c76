"""Several releases in one cluster, and the clean-up when one is removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.chart.rendering import CHART, Chart, Object, Rendered
from tests.chart.scenarios import SCENARIOS, Values
from tests.chart.schemas import validate, versions

pytestmark = pytest.mark.slow
every_scenario = pytest.mark.parametrize("values", SCENARIOS.values(), ids=SCENARIOS.keys())


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def identities(one: Object) -> tuple[str, str, str]:
    return one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]


def anti_affinity(rendered: Rendered) -> list[Any]:
    (term,) = rendered.pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["namespaceSelector"] == {}  # of every namespace
    expressions: list[Any] = term["labelSelector"]["matchExpressions"]
    return expressions


def matches(expressions: list[Any], labels: dict[str, str]) -> bool:
    """Whether a label selector's expressions fit, as Kubernetes says."""
    judges = {
        "Exists": lambda value, values: value is not None,
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
    }
    return all(
        judges[entry["operator"]](labels.get(entry["key"]), entry.get("values", ())) for entry in expressions
    )


def uid_of(dashboard: Object) -> str:
    (text,) = dashboard["data"].values()
    return str(next(line for line in text.splitlines() if '"uid": "' in line))


@pytest.mark.parametrize(
    "others",
    [[("blue", "a"), ("blue", "b")], [("peili-a", "b"), ("peili", "a-b")], [("b-peili", "a"), ("peili", "a-b")]],
)
def test_dashboards_of_all_releases_have_room_in_one_namespace(chart: Chart, others: list[tuple[str, str]]) -> None:
    """The sidecar of Grafana writes all of them into one directory, by the names of their files."""
    values = {"dashboard": {"enabled": True, "namespace": "grafana"}}
    boards = [chart.render(values, name=name, namespace=namespace).one("ConfigMap") for name, namespace in others]
    for one in boards:
        assert one["metadata"]["namespace"] == "grafana"
        validate(one, versions()[-1])
    assert len({one["metadata"]["name"] for one in boards}) == len(boards)
    assert len({name for one in boards for name in one["data"]}) == len(boards)
    assert len({uid_of(one) for one in boards}) == len(boards)


@pytest.mark.parametrize(("name", "namespace"), [("green", "peili-system"), ("blue", "other")])
def test_two_releases_share_nothing_and_no_node(chart: Chart, name: str, namespace: str) -> None:
    values = {**SCENARIOS["monitoring"], "identity": {"persistent": True}}
    first = chart.render(values, name="blue", namespace="peili-system")
    second = chart.render(values, name=name, namespace=namespace)
    assert not {identities(one) for one in first.objects} & {identities(one) for one in second.objects}
    labels = [one.mirror["spec"]["template"]["metadata"]["labels"] for one in (first, second)]
    if namespace == "peili-system":
        for service in first.all("Service"):
            assert not selects(service["spec"]["selector"], labels[1])
        assert not selects(first.mirror["spec"]["selector"]["matchLabels"], labels[1])
    assert matches(anti_affinity(first), labels[1])
    assert matches(anti_affinity(second), labels[0])
    assert not matches(anti_affinity(first), labels[0])
    kept = [one.pod["volumes"][-2]["hostPath"]["path"] for one in (first, second)]
    assert kept[0] != kept[1]
    uids = [uid_of(one.one("ConfigMap", hooks=False)) for one in (first, second)]
    assert uids[0] != uids[1]


def hooks(rendered: Rendered) -> Iterator[tuple[int, Object]]:
    for one in rendered.objects:
        annotations = one["metadata"].get("annotations", {})
        if "helm.sh/hook" in annotations:
            assert annotations["helm.sh/hook"] == "post-delete"
            yield int(annotations["helm.sh/hook-weight"]), one


@every_scenario
def test_the_cleanup_starts_with_its_rights_and_ends_with_the_job_that_helm_waits_for(
    chart: Chart, values: Values
) -> None:
    rendered = chart.render(values)
    ordered = sorted(hooks(rendered), key=lambda pair: pair[0])
    if not values.get("cleanup", {}).get("enabled", True):
        assert not ordered
        return
    kinds = [one["kind"] for _, one in ordered]
    assert kinds[-2:] == ["DaemonSet", "Job"]
    assert all(before <= after for before, after in pairwise(weight for weight, _ in ordered))
    assert {"ServiceAccount", "Role", "RoleBinding", "ConfigMap"} <= set(kinds[:-2])
    for _, one in ordered:
        policy = one["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation,hook-succeeded"
        # Nothing of the release exists any more when hooks run after its deletion.
        assert one["metadata"]["name"].endswith("-cleanup")
    pod = ordered[-2][1]["spec"]["template"]["spec"]
    bound = {subject["name"] for one in rendered.all("RoleBinding") for subject in one["subjects"]}
    assert bound == {ordered[-1][1]["spec"]["template"]["spec"]["serviceAccountName"]}
    accounts = {one["metadata"]["name"] for _, one in ordered if one["kind"] == "ServiceAccount"}
    assert accounts == bound | {pod["serviceAccountName"]}
    assert pod["serviceAccountName"] not in bound
    for kept in ("nodeSelector", "tolerations", "priorityClassName"):
        assert pod.get(kept) == rendered.pod.get(kept)
    assert pod["affinity"].get("nodeAffinity") == rendered.pod["affinity"].get("nodeAffinity")
    assert not [volume for volume in pod["volumes"] if "secret" in volume]


def test_the_cleanup_waits_for_the_end_of_the_nodes_peili(chart: Chart) -> None:
    rendered = chart.render()
    pod = rendered.one("DaemonSet", hooks=True)["spec"]["template"]["spec"]
    (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = rendered.mirror["spec"]["template"]["metadata"]["labels"]
    assert selects(term["labelSelector"]["matchLabels"], labels)
    assert not selects(
        term["labelSelector"]["matchLabels"],
        rendered.one("DaemonSet", hooks=True)["spec"]["template"]["metadata"]["labels"],
    )


@pytest.mark.parametrize(("name", "namespace"), [("green", "peili-system"), ("blue", "other")])
def test_a_cleanup_and_the_peili_of_another_release_share_no_node(chart: Chart, name: str, namespace: str) -> None:
    old = chart.render(name="blue", namespace="peili-system")
    new = chart.render(name=name, namespace=namespace)
    cleanup = old.one("DaemonSet", hooks=True)["spec"]["template"]
    labels = cleanup["metadata"]["labels"]
    # The other's own rule, which the scheduler holds against whoever comes second.
    assert matches(anti_affinity(new), labels)
    # Our own Peili has no rule against our clean-up, which has one against it: the Job tells the two apart by that.
    assert not matches(anti_affinity(old), labels)
    (term,) = cleanup["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert "namespaceSelector" not in term  # so of its own namespace
    others = new.mirror["spec"]["template"]["metadata"]["labels"]
    assert namespace == "other" or not selects(term["labelSelector"]["matchLabels"], others)


def test_the_script_has_the_time_that_helm_has(chart: Chart) -> None:
    job = chart.render().one("Job", hooks=True)["spec"]
    (container,) = job["template"]["spec"]["containers"]
    seconds = int(container["command"][-1])
    assert seconds + 30 < job["activeDeadlineSeconds"] < 300  # helm's --timeout is 5m


def test_the_job_runs_on_any_node_that_works(chart: Chart) -> None:
    values: Values = {
        "nodeSelector": {"pool": "batch"},
        "tolerations": [
            {"operator": "Exists"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
            {"key": "batch", "operator": "Exists", "effect": "NoSchedule"},
        ],
        "imagePullSecrets": [{"name": "pull"}],
    }
    rendered = chart.render(values)
    pod = rendered.one("Job", hooks=True)["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert "affinity" not in pod
    keys = [entry["key"] for entry in pod["tolerations"]]
    assert keys == ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "batch"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["priorityClassName"] == rendered.pod["priorityClassName"]


def test_helm_prints_the_log_of_a_job_that_failed(chart: Chart) -> None:
    for _, one in hooks(chart.render()):
        policy = one["metadata"]["annotations"].get("helm.sh/hook-output-log-policy")
        assert policy == ("hook-failed" if one["kind"] == "Job" else None)


def test_what_a_failed_cleanup_leaves_is_deleted_by_the_command_of_the_documents(chart: Chart) -> None:
    text = (CHART.parents[1] / "docs/installation.md").read_text()
    found = re.search(r"delete ([a-z,]+) \\\n +--selector (\S+)", text)
    assert found is not None
    wanted = dict(pair.split("=") for pair in found[2].split(","))
    for _, one in hooks(chart.render(SCENARIOS["GKE"])):
        assert selects(wanted, one["metadata"]["labels"])
        assert one["kind"].lower() in found[1].split(",")
    assert not selects(wanted, chart.render().mirror["metadata"]["labels"])


def test_the_quota_of_gke_is_there_for_the_cleanup_too(chart: Chart) -> None:
    quotas = chart.render(SCENARIOS["GKE"]).all("ResourceQuota")
    assert [one["metadata"]["name"] for one in quotas] == ["peili", "peili-cleanup"]
    for quota in quotas:
        (expression,) = quota["spec"]["scopeSelector"]["matchExpressions"]
        assert expression["values"] == ["system-node-critical"]
