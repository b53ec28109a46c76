"""What docs/installation.md shows can be typed in as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from peili.cli import main
from tests.chart.rendering import Chart, Object, load_all
from tests.chart.schemas import validate, versions

TEXT = (Path(__file__).parents[2] / "docs/installation.md").read_text()


def blocks() -> list[Object]:
    return [one for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.S) for one in load_all(block)]


@pytest.mark.slow
def test_values_are_accepted_and_the_check_is_a_pod(chart: Chart) -> None:
    pods = [one for one in blocks() if one.get("kind") == "Pod"]
    values = [one for one in blocks() if "kind" not in one]
    assert len(pods) == len(values) == 1
    chart.render(values[0])
    validate(pods[0], versions()[-1])


@pytest.mark.slow
def test_the_check_looks_where_the_chart_puts_things(chart: Chart) -> None:
    (container,) = next(one for one in blocks() if one.get("kind") == "Pod")["spec"]["containers"]
    rendered = chart.render()
    flags = dict(argument.split("=", 1) for argument in container["args"][1:])
    of_run = dict(argument.split("=", 1) for argument in rendered.container("peili")["args"] if "=" in argument)
    for name in ("--containerd-socket", "--containerd-content-path"):
        assert flags[name] == of_run[name]
    assert (
        f"--containerd-config-path={flags['--containerd-config-path']}" in rendered.container("configure")["args"]
    )
    for name in ("--registry-address", "--operations-address"):
        assert flags[name].rpartition(":")[2] == of_run[name].rpartition(":")[2]


def test_the_check_is_a_command_line_of_the_program(yaml_reader: None, tmp_path: Path) -> None:
    (container,) = next(one for one in blocks() if one.get("kind") == "Pod")["spec"]["containers"]
    arguments = [one.replace("=/", f"={tmp_path}/") for one in container["args"]]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 1, result.output  # nothing is there, and that is what it says
    assert {finding["name"] for finding in json.loads(result.stdout)} >= {"socket", "config_path", "hosts.toml"}


@pytest.mark.slow
def test_every_alert_of_the_chart_is_in_the_document(chart: Chart) -> None:
    (group,) = chart.render({"prometheusRule": {"enabled": True}}).one("PrometheusRule")["spec"]["groups"]
    metrics = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    assert set(re.findall(r"Peili[A-Z]\w+", metrics)) == {rule["alert"] for rule in group["rules"]}
