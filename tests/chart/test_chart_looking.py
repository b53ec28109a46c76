"""`peili check`, `status` and `explain` in the mirror's container, as README and NOTES say: without a flag."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from peili.cli import main
from tests.chart.rendering import CHART, Chart, Rendered
from tests.chart.scenarios import SCENARIOS, Values

pytestmark = pytest.mark.slow
ROOT = CHART.parents[1]
DOCUMENTS = ("README.md", "docs/installation.md", "charts/peili/templates/NOTES.txt")
CONFIG = """version = 3
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{path}"
"""


def commands(document: str) -> list[str]:
    """What a document runs with `kubectl exec` in the mirror's container."""
    text = (ROOT / document).read_text()
    return [found[1].strip() for found in re.finditer(r"(?:-c|--container) peili -- peili ([^#\n`]*)", text)]


class Pod:
    """The mirror's container as its commands see it: of the node only what is mounted."""

    def __init__(self, rendered: Rendered, directory: Path) -> None:
        self.node, self.inside = directory / "node", directory / "pod"
        container = rendered.container("peili")
        volumes = {volume["name"]: volume for volume in rendered.pod["volumes"]}
        for mount in sorted(container["volumeMounts"], key=lambda one: len(one["mountPath"])):
            place = self.inside / mount["mountPath"][1:]
            volume = volumes[mount["name"]]
            if "hostPath" in volume:
                source = self.node / volume["hostPath"]["path"][1:]
                source.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(source)
            else:
                place.mkdir(parents=True)
                name = volume["name"]
                (place / name).write_text("user:password" if name == "basic-auth" else "s" * 48)
        values = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        self.environment: dict[str, Any] = {
            name: self.within(value) if value.startswith("/") else value for name, value in values.items()
        }

    def within(self, path: str) -> str:
        return f"{self.inside}{path}"

    def run(self, command: str) -> Result:
        return CliRunner().invoke(main, command.split(), env=self.environment)


def test_the_documents_say_how_to_look() -> None:
    assert all("check" in commands(document) for document in DOCUMENTS)
    for document in DOCUMENTS:
        assert {command.split()[0] for command in commands(document)} <= {"check", "status", "explain"}


@pytest.mark.parametrize("values", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_environment_says_what_the_flags_say(chart: Chart, values: Values) -> None:
    """So that `peili run` behaves the same with it, and the commands ask the node that runs."""
    container = chart.render(values).container("peili")
    flags = [argument.partition("=")[::2] for argument in container["args"][1:]]
    names = [entry["name"] for entry in container["env"] if entry["name"].startswith("PEILI_")]
    for name in names:
        flag = "--" + name.removeprefix("PEILI_").lower().replace("_", "-")
        (value,) = [entry["value"] for entry in container["env"] if entry["name"] == name]
        assert (flag, value) in flags
        assert flag in {option for parameter in main.commands["check"].params for option in parameter.opts}


@pytest.mark.parametrize("name", ["default", "k3s", "registry directory elsewhere", "passwords", "no secret"])
def test_check_finds_everything_where_the_chart_mounts_it(chart: Chart, name: str, tmp_path: Path) -> None:
    values = SCENARIOS[name]
    rendered = chart.render(values)
    pod = Pod(rendered, tmp_path)
    hosts = values.get("containerd", {}).get("registryConfigPath", "/etc/containerd/certs.d")
    file = Path(pod.environment["PEILI_CONTAINERD_CONFIG_FILE"])
    file.write_text(CONFIG.format(path=pod.within(hosts)))
    configure = [
        "configure",
        f"--containerd-config-path={pod.node}{hosts}",
        "--mirror-target=http://127.0.0.1:29500",
    ]
    assert CliRunner().invoke(main, configure).exit_code == 0
    result = pod.run("check --json")
    found = {finding["name"]: finding for finding in json.loads(result.stdout)}
    # containerd alone is not there, and nobody listens at the ports.
    assert {one for one, finding in found.items() if finding["level"] == "fail"} == {"socket"}
    assert found["config_path"]["level"] == found["hosts.toml"]["level"] == "ok"
    for port, number in (("registry port", 29500), ("router port", 29501), ("operations port", 29502)):
        assert f"[::]:{number} is free" in found[port]["what"]
    assert found["cluster secret"]["level"] == ("warn" if name == "no secret" else "ok")
    if name == "no secret":
        assert "everyone who reaches this node" in found["access"]["what"]


@pytest.mark.parametrize("command", ["status", "explain alpine"])
def test_status_and_explain_ask_the_node_that_runs_here(chart: Chart, command: str, tmp_path: Path) -> None:
    values = {"ports": {"operations": 1}}  # where nobody answers
    result = Pod(chart.render(values), tmp_path).run(command)
    assert result.exit_code == 2
    assert "no Peili answers at http://127.0.0.1:1/" in result.stderr
