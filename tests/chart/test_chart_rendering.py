"""What the chart renders: valid for Kubernetes, and as careful as it says."""

from __future__ import annotations

import base64

import pytest

from peili.version import VERSION
from tests.chart.rendering import CHART, NEWEST, Chart, Object, Rendered, containers, load_all
from tests.chart.scenarios import SCENARIOS, Values
from tests.chart.schemas import validate, versions

pytestmark = pytest.mark.slow
OLDEST = (1, 25)
every_scenario = pytest.mark.parametrize("values", SCENARIOS.values(), ids=SCENARIOS.keys())


def number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_lint_finds_nothing(chart: Chart) -> None:
    chart.run("lint", "--strict", CHART, "--kube-version", NEWEST, "--set", "image.repository=r.example.com/p")


def test_the_chart_has_the_version_of_the_program(yaml_reader: None) -> None:
    (about,) = load_all((CHART / "Chart.yaml").read_text())
    assert about["version"] == about["appVersion"] == VERSION


@every_scenario
def test_kubernetes_takes_every_object(chart: Chart, values: Values) -> None:
    known = [version for version in versions() if number(version) >= OLDEST]
    for version in (known[0], known[len(known) // 2], known[-1]):
        for one in chart.render(values).objects:
            validate(one, version)


def test_the_validation_sees_a_mistake(chart: Chart) -> None:
    one = chart.render().one("Service", "peili-bootstrap")
    broken = {**one, "spec": {**one["spec"], "publishNotReadyAdresses": True}}
    with pytest.raises(Exception, match="publishNotReadyAdresses"):
        validate(broken, versions()[-1])


def test_names_that_look_like_numbers_stay_texts(chart: Chart) -> None:
    rendered = chart.render({"nameOverride": "1"}, name="true", namespace="0123")
    for one in rendered.objects:
        validate(one, versions()[-1])
        assert one["metadata"]["namespace"] == "0123"
    assert rendered.mirror["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "true"


@every_scenario
def test_objects_are_in_their_namespace_and_named_for_the_release(chart: Chart, values: Values) -> None:
    for one in chart.render(values, name="blue", namespace="images").objects:
        expected = values.get("dashboard", {}).get("namespace") if one["kind"] == "ConfigMap" else None
        is_dashboard = one["metadata"]["name"].endswith("-dashboard")
        assert one["metadata"]["namespace"] == (expected if is_dashboard and expected else "images")
        named = one["metadata"]["name"]
        assert named.startswith(("blue", values.get("fullnameOverride", "blue")))


@every_scenario
def test_no_container_has_more_rights_than_it_needs(chart: Chart, values: Values) -> None:
    for pod in chart.render(values).pods():
        for container in containers(pod):
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is security["privileged"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            of_root = container["name"] in ("peili", "configure", "cleanup", "forget-identity")
            assert (security["runAsUser"] == 0) is of_root
            assert security["runAsNonRoot"] is not of_root


@every_scenario
def test_only_the_waiting_job_has_a_token(chart: Chart, values: Values) -> None:
    rendered = chart.render(values)
    for one in rendered.objects:
        if one["kind"] == "ServiceAccount":
            assert one["automountServiceAccountToken"] is False
        if one["kind"] in ("DaemonSet", "Job"):
            pod = one["spec"]["template"]["spec"]
            assert pod["automountServiceAccountToken"] is (one["kind"] == "Job")
    bound = {subject["name"] for one in rendered.all("RoleBinding") for subject in one["subjects"]}
    assert rendered.pod["serviceAccountName"] not in bound
    assert not rendered.all("ClusterRole")
    assert not rendered.all("ClusterRoleBinding")


def mounts(container: Object, pod: Object) -> dict[str, tuple[str, bool]]:
    """A container's mounts of the node's directories: where they come from, and whether they can be written."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {
        mount["mountPath"]: (volumes[mount["name"]]["hostPath"]["path"], not mount.get("readOnly", False))
        for mount in container["volumeMounts"]
        if "hostPath" in volumes[mount["name"]]
    }


def test_the_node_is_written_only_where_it_must_be(chart: Chart) -> None:
    rendered = chart.render()
    content = "/var/lib/containerd/io.containerd.content.v1.content"
    certificates = "/etc/containerd/certs.d"
    assert mounts(rendered.container("configure"), rendered.pod) == {certificates: (certificates, True)}
    assert mounts(rendered.container("peili"), rendered.pod) == {
        "/run/containerd": ("/run/containerd", False),
        content: (content, False),
        certificates: (certificates, False),
        "/etc/containerd": ("/etc/containerd", False),
    }
    assert {one["name"]: one["hostPath"]["type"] for one in rendered.pod["volumes"] if "hostPath" in one} == {
        "registry-config": "DirectoryOrCreate",
        "containerd-config": "DirectoryOrCreate",
        "containerd-socket": "Directory",
        "containerd-content": "Directory",
    }


def test_a_persistent_identity_is_the_one_more_thing_that_is_written(chart: Chart) -> None:
    rendered = chart.render(SCENARIOS["identity"], name="blue", namespace="images")
    written = {path: where for path, (where, rw) in mounts(rendered.container("peili"), rendered.pod).items() if rw}
    assert written == {"/var/lib/peili": "/srv/peili/images-blue-peili"}
    assert "--data-dir=/var/lib/peili" in rendered.container("peili")["args"]
    cleanup = rendered.one("DaemonSet", hooks=True)["spec"]["template"]["spec"]
    forget = rendered.container("forget-identity")
    assert mounts(forget, cleanup) == {"/identity": ("/srv/peili", True)}
    assert forget["command"][-1] == "/identity/images-blue-peili"


@every_scenario
def test_every_volume_is_used_and_every_mount_has_one(chart: Chart, values: Values) -> None:
    for pod in chart.render(values).pods():
        used = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert used == {volume["name"] for volume in pod["volumes"]}


def ports(container: Object) -> dict[str, tuple[int, int | None, str | None]]:
    return {
        port["name"]: (port["containerPort"], port.get("hostPort"), port.get("hostIP"))
        for port in container["ports"]
    }


def test_it_is_in_the_nodes_network(chart: Chart) -> None:
    rendered = chart.render({"ports": {"registry": 1001, "router": 1002, "operations": 1003}})
    assert rendered.pod["hostNetwork"] is True
    assert rendered.pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert ports(rendered.container("peili")) == {
        "registry": (1001, 1001, None),
        "router": (1002, 1002, None),
        "operations": (1003, 1003, None),
    }
    assert "--mirror-target=http://127.0.0.1:1001" in rendered.container("configure")["args"]
    assert {
        "--registry-address=[::]:1001",
        "--router-address=[::]:1002",
        "--operations-address=[::]:1003",
    } <= set(rendered.container("peili")["args"])
    assert rendered.one("Service", "peili-bootstrap")["spec"]["ports"][0]["port"] == 1002
    assert rendered.one("Service", "peili-operations")["spec"]["ports"][0]["port"] == 1003


def test_in_the_pod_network_containerd_alone_comes_through_the_node(chart: Chart) -> None:
    rendered = chart.render(SCENARIOS["pod network"])
    assert "hostNetwork" not in rendered.pod
    assert ports(rendered.container("peili")) == {
        "registry": (29500, 29500, "127.0.0.1"),
        "router": (29501, None, None),
        "operations": (29502, None, None),
    }
    policy = rendered.one("NetworkPolicy")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], rendered.mirror["spec"]["template"]["metadata"]["labels"])
    peers, clients, monitoring = policy["ingress"]
    assert [port["port"] for port in peers["ports"]] == ["registry", "router"]
    assert [one["ipBlock"]["cidr"] for one in clients["from"]] == ["10.244.0.0/16", "fd00:10::/64"]
    assert [port["port"] for port in clients["ports"]] == ["registry"]
    assert monitoring["from"] == SCENARIOS["pod network"]["networkPolicy"]["operationsFrom"]
    assert policy["egress"][-1] == SCENARIOS["pod network"]["networkPolicy"]["extraEgress"][0]


def test_without_a_restriction_everybody_may_read_metrics(chart: Chart) -> None:
    values = {"hostNetwork": False, "clusterSecret": {"enabled": False}, "networkPolicy": {"enabled": True}}
    policy = chart.render(values).one("NetworkPolicy")["spec"]
    assert policy["ingress"][-1] == {"ports": [{"port": "operations", "protocol": "TCP"}]}


@every_scenario
def test_services_find_the_mirrors_pods_and_no_others(chart: Chart, values: Values) -> None:
    rendered = chart.render(values)
    labels = rendered.mirror["spec"]["template"]["metadata"]["labels"]
    named = {port["name"] for port in rendered.container("peili")["ports"]}
    others = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in rendered.objects
        if one["kind"] in ("DaemonSet", "Job") and one is not rendered.mirror
    ]
    for service in rendered.all("Service"):
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert selects(service["spec"]["selector"], labels)
        assert not any(selects(service["spec"]["selector"], other) for other in others)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


def test_both_families_unless_only_one_is_listened_on(chart: Chart) -> None:
    assert chart.render().one("Service", "peili-bootstrap")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    for service in chart.render(SCENARIOS["IPv4 only"]).all("Service"):
        assert service["spec"]["ipFamilies"] == ["IPv4"]
    assert "--registry-address=0.0.0.0:29500" in chart.render(SCENARIOS["IPv4 only"]).container("peili")["args"]


def test_prometheus_finds_each_node_once_where_there_are_two_families(chart: Chart) -> None:
    service = chart.render().one("Service", "peili-operations")["spec"]
    assert service["ipFamilyPolicy"] == "SingleStack"
    assert "ipFamilies" not in service  # the cluster's first one, whichever that is


def test_peers_are_found_by_the_name_of_the_bootstrap_service(chart: Chart) -> None:
    rendered = chart.render(name="blue", namespace="images")
    (source,) = [one for one in rendered.container("peili")["args"] if one.startswith("--bootstrap=")]
    assert source == "--bootstrap=dns:blue-peili-bootstrap.images.svc"
    assert rendered.one("Service", "blue-peili-bootstrap")["metadata"]["namespace"] == "images"


def test_it_runs_on_every_node_and_is_nobodys_first_victim(chart: Chart) -> None:
    rendered = chart.render()
    assert rendered.pod["priorityClassName"] == "system-node-critical"
    assert rendered.pod["tolerations"] == [{"operator": "Exists"}]
    for container in containers(rendered.pod):
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == "128Mi"


def test_a_rolling_update_takes_one_node_at_a_time(chart: Chart) -> None:
    strategy = chart.render().mirror["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert "readinessProbe" in chart.render().container("peili")


@pytest.mark.parametrize(("grace", "seconds"), [("20s", 30), ("1m", 70), ("1500ms", 12), ("0.5h", 1810)])
def test_the_pod_may_take_longer_than_its_transfers(chart: Chart, grace: str, seconds: int) -> None:
    assert chart.render({"gracePeriod": grace}).pod["terminationGracePeriodSeconds"] == seconds


def test_probes_ask_the_operations_port(chart: Chart) -> None:
    container = chart.render().container("peili")
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/livez", "port": "operations"},
        "liveness": {"path": "/livez", "port": "operations"},
        "readiness": {"path": "/readyz", "port": "operations"},
    }


def test_containerds_socket_is_reached_after_a_restart_of_containerd(chart: Chart) -> None:
    (mount,) = [
        one for one in chart.render().container("peili")["volumeMounts"] if one["name"] == "containerd-socket"
    ]
    assert mount["mountPath"] == "/run/containerd"  # not the socket itself, which is made anew
    assert mount["mountPropagation"] == "HostToContainer"
    private = chart.render({"containerd": {"mountPropagation": "None"}}).container("peili")
    assert {one.get("mountPropagation") for one in private["volumeMounts"]} == {None, "None"}


def secret_of(rendered: Rendered) -> dict[str, str]:
    data = rendered.one("Secret")["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def test_a_cluster_secret_is_made_and_long_enough(chart: Chart) -> None:
    secret = secret_of(chart.render())["cluster-secret"]
    assert len(secret) == 48
    assert secret != secret_of(chart.render(name="other"))["cluster-secret"]


def test_passwords_are_written_as_one_line(chart: Chart) -> None:
    assert secret_of(chart.render(SCENARIOS["passwords"]))["basic-auth"] == 'nodes:pa"ss $(HOME) :wörd'
    user, _, password = secret_of(chart.render(SCENARIOS["generated password"]))["basic-auth"].partition(":")
    assert user == "peili"
    assert len(password) == 32


def test_a_new_password_restarts_the_pods_and_an_annotation_tells_nothing_of_it(chart: Chart) -> None:
    rendered = chart.render(SCENARIOS["passwords"])
    annotations = rendered.mirror["spec"]["template"]["metadata"]["annotations"]
    assert annotations["peili/basic-auth-revision"] == secret_of(rendered)["basicAuthRevision"]


def test_secrets_of_the_operator_are_used_and_none_is_made(chart: Chart) -> None:
    rendered = chart.render(SCENARIOS["secrets of the operator"])
    assert not rendered.all("Secret")
    used = {one["name"]: one["secret"]["secretName"] for one in rendered.pod["volumes"] if "secret" in one}
    assert used == {"cluster-secret": "our-secret", "basic-auth": "our-password"}


def test_the_service_monitor_finds_the_operations_service(chart: Chart) -> None:
    rendered = chart.render(SCENARIOS["monitoring"])
    monitor = rendered.one("ServiceMonitor")["spec"]
    found = [
        one["metadata"]["name"]
        for one in rendered.all("Service")
        if selects(monitor["selector"]["matchLabels"], one["metadata"]["labels"])
    ]
    assert found == ["peili-operations"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == rendered.one("Service", "peili-operations")["spec"]["ports"][0]["name"]
