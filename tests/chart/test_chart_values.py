"""Wrong values end with a sentence; values, schema and the table in the README say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import CHART, Chart, RenderFailed, load_all
from tests.chart.scenarios import Values

WRONG: list[tuple[Values, str]] = [
    ({"hostNetwrok": False}, "additional properties 'hostNetwrok' not allowed"),
    ({"containerd": {"sock": "/x/y"}}, "additional properties 'sock' not allowed"),
    ({"image": {"repository": ""}}, "image.repository is empty: name the repository of your Peili image"),
    ({"image": {"repository": "r.example.com/p", "tag": "a b"}}, "/image/tag"),
    ({"image": {"repository": "r.example.com/p", "digest": "sha256:ab"}}, "/image/digest"),
    ({"ports": {"registry": 0}}, "/ports/registry"),
    ({"ports": {"registry": 5000, "router": 5000}}, "have to differ"),
    ({"listenAddress": "10.0.0.1"}, "/listenAddress"),
    ({"resolveTimeout": "250"}, "/resolveTimeout"),
    ({"logLevel": "loud"}, "/logLevel"),
    ({"mirroredRegistries": ["ghcr.io"]}, "/mirroredRegistries/0"),
    ({"mirroredRegistries": ["https://ghcr.io/owner"]}, "/mirroredRegistries/0"),
    ({"extraMirrorTargets": ["cache.example.com"]}, "/extraMirrorTargets/0"),
    ({"extraArgs": ["-x"]}, "/extraArgs/0"),
    ({"bootstrap": {"extra": ["10.0.0.5:29501"]}}, "/bootstrap/extra/0"),
    ({"bootstrap": {"dns": False}}, "no node would find a peer"),
    ({"clientNetworks": ["10.0.0.1"]}, "/clientNetworks/0"),
    ({"networkPolicy": {"enabled": True}}, "no effect with hostNetwork"),
    ({"hostNetwork": False}, "clientNetworks is empty"),
    ({"containerd": {"socket": "/run/containerd.sock"}}, "its directory is mounted into the pod"),
    ({"containerd": {"socket": "containerd.sock"}}, "/containerd/socket"),
    ({"containerd": {"registryConfigPath": "/etc/certs.d"}}, "name containerd's own config.toml"),
    ({"containerd": {"configFile": "/config.toml"}}, "name containerd's own config.toml"),
    ({"containerd": {"configFile": "config.toml"}}, "/containerd/configFile"),
    ({"containerd": {"registryConfigPath": "/a:/b"}}, "/containerd/registryConfigPath"),
    ({"basicAuth": {"enabled": True, "username": "a:b"}}, "/basicAuth/username"),
    ({"basicAuth": {"enabled": True, "username": ""}}, "basicAuth.username is empty"),
    ({"maxUnavailable": 0}, "/maxUnavailable"),
    ({"maxUnavailable": "all"}, "/maxUnavailable"),
    ({"resources": {"limits": {"memory": "128 MB"}}}, "/resources/limits/memory"),
    ({"podLabels": {"app.kubernetes.io/instance": "other"}}, "podLabels: the label app.kubernetes.io/instance"),
    ({"commonLabels": {"a": "1"}, "dashboard": {"labels": {"a": "2"}}}, "the label a is in commonLabels already"),
    ({"routerProtocol": "spegel"}, "cannot prove that they are members"),
    ({"routerProtocol": "spegel", "clusterSecret": {"enabled": False}}, "name the networks of the nodes"),
    ({"routerProtocol": "ipfs"}, "/routerProtocol"),
    ({"cleanup": {"timeoutSeconds": "long"}}, "/cleanup/timeoutSeconds"),
    ({"tolerations": {"operator": "Exists"}}, "/tolerations"),
    ({"zone": "a zone"}, "/zone"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("values", "sentence"), WRONG, ids=[json.dumps(values) for values, _ in WRONG])
def test_a_wrong_value_ends_with_a_sentence_that_names_it(chart: Chart, values: Values, sentence: str) -> None:
    with pytest.raises(RenderFailed) as caught:
        chart.render(values)
    assert sentence in str(caught.value)


@pytest.mark.slow
def test_a_parent_chart_may_pass_its_globals(chart: Chart) -> None:
    chart.render({"global": {"imageRegistry": "r.example.com"}})


def values_of_the_chart() -> dict[str, Any]:
    (values,) = load_all((CHART / "values.yaml").read_text())
    return values


def schema() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return document


def closed(part: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of objects with named properties that would let an unknown one pass."""
    # The two halves of `resources` take any resource's name.
    if "properties" in part and part.get("additionalProperties") is not False and not path.startswith("resources."):
        yield path or "the top"
    for name, below in part.get("properties", {}).items():
        yield from closed(below, f"{path}.{name}" if path else name)


def test_the_schema_knows_every_value_and_lets_no_other_pass(yaml_reader: None) -> None:
    def same(values: dict[str, Any], part: dict[str, Any], path: str) -> None:
        known = part["properties"].keys() - {"global"}
        assert values.keys() <= known, path
        for name, below in part["properties"].items():
            if below.get("additionalProperties") is False and isinstance(values.get(name), dict):
                same(values[name], below, f"{path}{name}.")

    same(values_of_the_chart(), schema(), "")
    top = schema()["properties"].keys() - {"global"}
    assert values_of_the_chart().keys() == top
    assert list(closed(schema(), "")) == []


def flattened(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its path; what an operator replaces as a whole counts as one value."""
    whole = {"nodeSelector", "nodeAffinity", "resources", "labels", "annotations"}
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in whole:
            yield from flattened(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def table() -> dict[str, str]:
    """The rows of the table of values in the chart's README: value, default."""
    text = (CHART / "README.md").read_text()
    return {
        match[1]: match[2]
        for match in re.finditer(r"^\| `([A-Za-z.]+)` \| (?:`(.*?)`|see values\.yaml) \| \S", text, re.M)
    }


def test_the_table_in_the_readme_has_every_value_with_its_default(yaml_reader: None) -> None:
    expected = {
        path: None if path == "nodeAffinity" else json.dumps(value, ensure_ascii=False)
        for path, value in flattened(values_of_the_chart())
    }
    assert table() == expected


@pytest.mark.slow
def test_the_examples_in_the_readme_are_accepted(chart: Chart) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.S)
    assert len(blocks) > 3
    for block in blocks:
        (values,) = load_all(block)
        chart.render(values)
