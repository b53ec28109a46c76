"""Wrong values end with a sentence; values, schema and the table in the README say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import CHART, Chart, RenderFailed, load_all
from tests.chart.scenarios import Values
from tests.chart.schemas import validate, versions

WRONG: list[tuple[Values, str]] = [
    ({"hostNetwrok": False}, "additional properties 'hostNetwrok' not allowed"),
    ({"containerd": {"sock": "/x/y"}}, "additional properties 'sock' not allowed"),
    ({"image": {"repository": ""}}, "image.repository is empty: name the repository of your Peili image"),
    ({"image": {"repository": "r.example.com/p:1.2"}}, "image.repository r.example.com/p:1.2: write it as"),
    ({"image": {"repository": "p:1.2"}}, "image.repository p:1.2: write it as"),
    ({"image": {"repository": "https://r.example.com/p"}}, "without https://"),
    ({"image": {"repository": "r.example.com/Peili"}}, "in lower case"),
    ({"image": {"repository": "r.example.com/p@sha256:" + "ab" * 32}}, "a digest into image.digest"),
    ({"image": {"repository": "r.example.com//p"}}, "image.repository r.example.com//p: write it as"),
    ({"image": {"repository": "r.example.com:5000"}}, "image.repository r.example.com:5000: write it as"),
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
    ({"bootstrap": {"extra": ["file:/etc/peili/peers"]}}, "the chart mounts no file of yours into the pod"),
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
    ({"tolerations": [{"opreator": "Exists"}]}, "additional properties 'opreator' not allowed"),
    ({"tolerations": [{"operator": "exists"}]}, "/tolerations/0/operator"),
    ({"tolerations": [{"operator": "Exists", "effect": "NoScheduling"}]}, "/tolerations/0/effect"),
    ({"resources": {"limits": {"memroy": "1Gi"}}}, "additional properties 'memroy' not allowed"),
    ({"resources": {"requests": {"cpu": "50 m"}}}, "/resources/requests/cpu"),
    ({"resources": {"requests": {"hugepages": "1Gi"}}}, "additional properties 'hugepages' not allowed"),
    ({"resources": {"claims": [{"nmae": "a"}]}}, "additional properties 'nmae' not allowed"),
    ({"networkPolicy": {"operationsFrom": [{"podSelctor": {}}]}}, "additional properties 'podSelctor' not allowed"),
    (
        {"networkPolicy": {"operationsFrom": [{"namespaceSelector": {"matchLabel": {}}}]}},
        "additional properties 'matchLabel' not allowed",
    ),
    ({"networkPolicy": {"operationsFrom": [{"ipBlock": {"cdir": "10.0.0.0/8"}}]}}, "'cdir' not allowed"),
    ({"networkPolicy": {"extraEgress": [{"form": []}]}}, "additional properties 'form' not allowed"),
    ({"networkPolicy": {"extraEgress": [{"ports": [{"prot": 443}]}]}}, "additional properties 'prot' not allowed"),
    (
        {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerm": []}}},
        "additional properties 'nodeSelectorTerm' not allowed",
    ),
    (
        {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpression": []}}
                ]
            }
        },
        "additional properties 'matchExpression' not allowed",
    ),
    ({"zone": "a zone"}, "/zone"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("values", "sentence"), WRONG, ids=[json.dumps(values) for values, _ in WRONG])
def test_a_wrong_value_ends_with_a_sentence_that_names_it(chart: Chart, values: Values, sentence: str) -> None:
    with pytest.raises(RenderFailed) as caught:
        chart.render(values)
    assert sentence in str(caught.value)


RIGHT: list[Values] = [
    {"image": {"repository": "peili"}},
    {"image": {"repository": "localhost:5000/peili"}},
    {"image": {"repository": "Registry.example.com:443/team/some_peili--x.y"}},
    {"image": {"repository": "[fd00::5]:5000/peili"}},
    {
        "tolerations": [
            {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60},
            {"key": "a"},
        ]
    },
    {
        "resources": {
            "requests": {"cpu": 1, "memory": "128Mi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "64Mi"},
            "limits": {"cpu": 0.5, "memory": "1Gi"},
            "claims": [{"name": "link", "request": "fast"}],
        }
    },
    {
        "hostNetwork": False,
        "clientNetworks": ["10.244.0.1/32"],
        "networkPolicy": {
            "enabled": True,
            "operationsFrom": [
                {
                    "podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
                    "namespaceSelector": {},
                },
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ],
            "extraEgress": [{"ports": [{"port": 1000, "endPort": 2000, "protocol": "UDP"}, {"port": "web"}]}, {}],
        },
    },
    {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}]},
                    {"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]},
                ]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "b", "operator": "Exists"}]}}
            ],
        }
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("values", RIGHT, ids=[json.dumps(values)[:60] for values in RIGHT])
def test_what_kubernetes_takes_is_not_refused(chart: Chart, values: Values) -> None:
    for one in chart.render(values).objects:
        validate(one, versions()[-1])


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
    """Paths of objects that would let an unknown name pass, and of lists that would let anything pass.

    Maps, all of whose values are alike, do not count.
    """
    kinds, others = part.get("type", ()), part.get("additionalProperties", True)
    if ("object" in kinds or "properties" in part) and others is True:
        yield path
    if "array" in kinds and "items" not in part:
        yield path
    below = {
        name: found for kind in ("properties", "patternProperties") for name, found in part.get(kind, {}).items()
    }
    below |= {f"#{number}": found for number, found in enumerate(part.get("anyOf", []))}
    below |= {"[]": part["items"]} if "items" in part else {}
    below |= {"*": others} if isinstance(others, dict) else {}
    for name, found in below.items():
        yield from closed(found, f"{path}.{name}")


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
    document = schema()
    # What a parent chart passes to all of its charts is not ours to know.
    assert list(closed(document, "")) == [".global"]
    assert [path for name, part in document["definitions"].items() for path in closed(part, name)] == []


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
