"""The command lines that the chart renders, given to the real program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from peili.cli import main
from peili.registry.credentials import Credentials
from peili.routing.bootstrap import DnsSource
from peili.settings import ContainerdStoreSettings, RunSettings
from tests.chart.rendering import Chart, Object, Rendered, as_kubelet, containers
from tests.chart.scenarios import SCENARIOS, Values

pytestmark = pytest.mark.slow
every_scenario = pytest.mark.parametrize("values", SCENARIOS.values(), ids=SCENARIOS.keys())
POD = {"POD_IP": "10.0.0.7", "ZONE": ""}
# Flags that the chart offers by no value of its own, with the reason; `extraArgs` takes those of `run`.
NOT_OFFERED = {
    "run": {"--store": "in a cluster it is containerd's"},
    "configure": {"--json": "the log is read by people"},
    "cleanup": {"--json": "the log is read by people"},
}


@pytest.fixture(name="files")
def made_files(tmp_path: Path) -> Path:
    """What Kubernetes would mount at /etc/peili."""
    for name, content in (("cluster-secret", "s" * 48), ("basic-auth", "user:password")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
    return tmp_path


def command_line(container: Object, files: Path, environment: Mapping[str, str] = POD) -> list[str]:
    return [one.replace("/etc/peili/", f"{files}/") for one in as_kubelet(container, environment)]


def our_containers(rendered: Rendered) -> Iterator[Object]:
    """Containers that run the image's own program: those without a command."""
    for pod in rendered.pods():
        yield from (one for one in containers(pod) if "command" not in one)


@pytest.fixture(name="started")
def nothing_started(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """What `peili run` would have been started with."""
    started: list[RunSettings] = []
    monkeypatch.setattr("peili.daemon.run_daemon", started.append)
    return started


def run(arguments: list[str]) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@every_scenario
def test_run_starts_with_what_the_chart_says(
    chart: Chart, values: Values, files: Path, started: list[RunSettings]
) -> None:
    run(command_line(chart.render(values).container("peili"), files))
    (settings,) = started
    assert settings.advertise_address == "10.0.0.7"
    assert isinstance(settings.store, ContainerdStoreSettings)
    assert settings.bootstrap
    assert (settings.cluster_secret is None) is not values.get("clusterSecret", {}).get("enabled", True)
    assert (settings.credentials is not None) is values.get("basicAuth", {}).get("enabled", False)


def test_every_value_arrives(chart: Chart, files: Path, started: list[RunSettings]) -> None:
    values: dict[str, Any] = {
        **SCENARIOS["filters and times"],
        **SCENARIOS["k3s"],
        "mirroredRegistries": ["https://docker.io", "http://registry.local:5000"],
        "clientNetworks": ["10.244.0.0/16"],
        "ports": {"registry": 1001, "router": 1002, "operations": 1003},
        "identity": {"persistent": True},
        "basicAuth": {"enabled": True},
    }
    run(command_line(chart.render(values).container("peili"), files))
    (settings,) = started
    addresses = (settings.registry_address, settings.router_address, settings.operations_address)
    assert [str(one) for one in addresses] == ["[::]:1001", "[::]:1002", "[::]:1003"]
    assert settings.bootstrap == (DnsSource("peili-bootstrap.peili-system.svc"),)
    assert settings.store == ContainerdStoreSettings(
        Path("/run/k3s/containerd/containerd.sock"),
        "k8s.io",
        Path("/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content"),
        Path("/var/lib/rancher/k3s/agent/etc/containerd/certs.d"),
        Path("/var/lib/rancher/k3s/agent/etc/containerd/config.toml"),
    )
    assert [one.pattern for one in settings.filters] == values["filters"]
    assert settings.mirrored_registries == {"docker.io", "registry.local:5000"}
    assert (settings.resolve_timeout, settings.stall_timeout, settings.grace_period) == (1.5, 0.8, 60.0)
    assert (settings.resolve_tags, settings.resolve_latest) == (False, False)
    assert (settings.zone, settings.log_level) == ("rack-7", "debug")
    assert settings.data_directory == Path("/var/lib/peili")
    assert settings.credentials == Credentials("user", "password")
    assert [str(one) for one in settings.client_networks] == ["10.244.0.0/16"]


@pytest.mark.parametrize("zone", ["", "eu-central-1a"])
def test_the_zone_comes_from_the_pods_label_or_is_none(
    chart: Chart, files: Path, started: list[RunSettings], zone: str
) -> None:
    container = chart.render().container("peili")
    (entry,) = [one for one in container["env"] if one["name"] == "ZONE"]
    assert entry["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['topology.kubernetes.io/zone']"
    run(command_line(container, files, {"POD_IP": "fd00::7", "ZONE": zone}))
    assert (started[0].zone, started[0].advertise_address) == (zone, "fd00::7")


@every_scenario
def test_configure_and_cleanup_do_what_the_chart_says(
    chart: Chart, values: Values, files: Path, tmp_path: Path
) -> None:
    rendered = chart.render(values)
    given = values.get("containerd", {}).get("registryConfigPath", "/etc/containerd/certs.d")
    node = tmp_path / "certs.d"
    node.mkdir()
    arguments = command_line(rendered.container("configure"), files)
    assert f"--containerd-config-path={given}" in arguments
    run([one.replace(given, str(node)) for one in arguments])
    registries = values.get("mirroredRegistries", [])
    expected = sorted(url.partition("://")[2] for url in registries) or ["_default"]
    written = sorted(path.parent.name for path in node.glob("*/hosts.toml"))
    assert written == expected
    text = (node / written[0] / "hosts.toml").read_text()
    port = values.get("ports", {}).get("registry", 29500)
    targets = [f"http://127.0.0.1:{port}", *values.get("extraMirrorTargets", [])]
    positions = [text.index(f'[host."{url}"]') for url in targets]
    assert positions == sorted(positions)
    assert ("Authorization" in text or "authorization" in text) is values.get("basicAuth", {}).get("enabled", False)
    if values.get("cleanup", {}).get("enabled", True):
        arguments = command_line(rendered.container("cleanup"), files)
        run([one.replace(given, str(node)) for one in arguments])
        assert list(node.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "configure", "cleanup"])
def test_every_flag_is_offered_or_left_out_for_a_reason(chart: Chart, command: str) -> None:
    known = {
        flag
        for parameter in main.commands[command].params
        if isinstance(parameter, click.Option)
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag != "--help"
    }
    rendered = {
        argument.partition("=")[0]
        for values in SCENARIOS.values()
        for container in our_containers(chart.render(values))
        if container["args"][0] == command
        for argument in container["args"][1:]
    }
    # The opposite of what is written is the default.
    rendered |= {"--prepend-existing"} if command == "configure" else set()
    assert rendered <= known
    missing = known - rendered - NOT_OFFERED[command].keys()
    assert not missing, f"offer {missing} by a value of the chart, or name the reason in NOT_OFFERED"


def test_a_wrong_flag_would_be_seen(chart: Chart, files: Path, started: list[RunSettings]) -> None:
    container = chart.render({"extraArgs": ["--resolve-timout=1s"]}).container("peili")
    result = CliRunner().invoke(main, command_line(container, files))
    assert result.exit_code == 2
    assert "No such option" in result.output
    assert not started
