"""What docs/installation.md shows can be typed in as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from peili.cli import main
from tests.chart import install
from tests.chart.rendering import CHART, Chart, Object, load_all
from tests.chart.schemas import validate, versions

TEXT = (Path(__file__).parents[2] / "docs/installation.md").read_text()


def blocks() -> list[Object]:
    return [one for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.S) for one in load_all(block)]


def pod(command: str) -> Object:
    """The pod of the document that runs this command."""
    (found,) = [
        one for one in blocks() if one.get("kind") == "Pod" and one["spec"]["containers"][0]["args"][0] == command
    ]
    return found


@pytest.mark.slow
def test_values_are_accepted_and_the_pods_are_valid(chart: Chart) -> None:
    values = [one for one in blocks() if "kind" not in one]
    assert len(values) == 1
    chart.render(values[0])
    for name in ("check", "cleanup"):
        validate(pod(name), versions()[-1])


@pytest.mark.slow
def test_helm_knows_the_commands_and_is_the_one_that_is_named(chart: Chart) -> None:
    commands = re.findall(r"^helm (\w+) (.*)$", TEXT, re.M)
    assert {command for command, _ in commands} == {"install", "upgrade", "uninstall"}
    for command, arguments in commands:
        known = re.findall(r"--[a-z-]+", chart.run(command, "--help"))
        assert set(re.findall(r"--[a-z-]+", arguments)) <= set(known)
    tested = re.search(r"@v(\d+\.\d+)\.", install.MODULE)
    assert tested is not None
    assert f"render the chart with helm {tested[1]}" in TEXT


@pytest.mark.slow
def test_the_private_key_lies_where_the_document_says(chart: Chart) -> None:
    rendered = chart.render({"identity": {"persistent": True}}, namespace="peili")
    (volume,) = [one for one in rendered.pod["volumes"] if one["name"] == "identity"]
    assert f"`{volume['hostPath']['path']}`" in TEXT


@pytest.mark.slow
def test_the_check_looks_where_the_chart_puts_things(chart: Chart) -> None:
    (container,) = pod("check")["spec"]["containers"]
    rendered = chart.render()
    flags = dict(argument.split("=", 1) for argument in container["args"][1:])
    of_run = dict(argument.split("=", 1) for argument in rendered.container("peili")["args"] if "=" in argument)
    assert len(flags) > 6
    assert flags.items() <= of_run.items()
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    inside = {mount["mountPath"] for mount in rendered.container("peili")["volumeMounts"]}
    assert mounted.keys() == inside - {"/etc/containerd/certs.d"}  # which is below its parent
    volumes = {volume["name"]: volume for volume in pod("check")["spec"]["volumes"]}
    secrets = rendered.one("Secret")["metadata"]["name"]
    assert volumes["cluster-secret"]["secret"]["secretName"] == secrets


@pytest.mark.slow
def test_the_cleanup_of_one_node_is_the_one_of_the_chart(chart: Chart) -> None:
    spec, ours = pod("cleanup")["spec"], chart.render().container("cleanup")
    (container,) = spec["containers"]
    assert container["args"] == ours["args"]
    assert container["volumeMounts"] == ours["volumeMounts"]


def test_the_check_is_a_command_line_of_the_program(yaml_reader: None, tmp_path: Path) -> None:
    (container,) = pod("check")["spec"]["containers"]
    arguments = [one.replace("=/", f"={tmp_path}/") for one in container["args"]]
    assert len(arguments) > 6
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 1, result.output  # nothing is there, and that is what it says
    assert {finding["name"] for finding in json.loads(result.stdout)} >= {"socket", "config_path", "hosts.toml"}


@pytest.mark.slow
def test_every_alert_of_the_chart_is_in_the_document(chart: Chart) -> None:
    (group,) = chart.render({"prometheusRule": {"enabled": True}}).one("PrometheusRule")["spec"]["groups"]
    metrics = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    assert set(re.findall(r"Peili[A-Z]\w+", metrics)) == {rule["alert"] for rule in group["rules"]}


def test_the_table_of_settings_names_the_values_of_the_chart(yaml_reader: None) -> None:
    operations = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    rows = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \| ", operations, re.M)
    assert len(rows) > 12
    (values,) = load_all((CHART / "values.yaml").read_text())
    flags = {option for parameter in main.commands["run"].params for option in parameter.opts}
    for settings, named in rows:
        assert set(re.findall(r"`(--[a-z-]+)`", settings)) <= flags
        for path in re.findall(r"`([A-Za-z.]+)`", named):
            below = values
            for part in path.split("."):
                below = below[part]
