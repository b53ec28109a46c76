"""What helm makes of the chart: objects, as Kubernetes would get them."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "charts/peili"
NEWEST = "1.35.0"  # the version of Kubernetes that the chart is rendered for, where a test says nothing else
HELM_TIMEOUT = 120.0  # seconds
_REFERENCE = re.compile(r"\$(?:\$|\((?P<name>[^()\s]+)\))")
Object = dict[str, Any]


class RenderFailed(Exception):
    """helm refused; the text is what it says to the operator."""


@dataclass(frozen=True)
class Rendered:
    """The objects of one release, hooks among them."""

    objects: tuple[Object, ...]

    def all(self, kind: str, *, hooks: bool | None = None) -> list[Object]:
        """Objects of a kind; with `hooks` only those that are hooks, or are none."""
        found = [one for one in self.objects if one["kind"] == kind]
        return found if hooks is None else [one for one in found if is_hook(one) is hooks]

    def one(self, kind: str, name: str | None = None, *, hooks: bool = False) -> Object:
        """The only object of a kind (and name)."""
        found = [one for one in self.all(kind, hooks=hooks) if name is None or one["metadata"]["name"] == name]
        assert len(found) == 1, [one["metadata"]["name"] for one in self.all(kind)]
        return found[0]

    @property
    def mirror(self) -> Object:
        """The DaemonSet of Peili."""
        return self.one("DaemonSet")

    @property
    def pod(self) -> Object:
        """The mirror's pod specification."""
        pod: Object = self.mirror["spec"]["template"]["spec"]
        return pod

    def container(self, name: str) -> Object:
        """A container of any pod of the release, by its name."""
        found = [one for pod in self.pods() for one in containers(pod) if one["name"] == name]
        assert len(found) == 1, name
        return found[0]

    def pods(self) -> Iterator[Object]:
        """The pod specifications of all DaemonSets and Jobs."""
        for one in self.objects:
            if one["kind"] in ("DaemonSet", "Job"):
                yield one["spec"]["template"]["spec"]


def is_hook(one: Object) -> bool:
    """Whether helm makes an object only on an occasion."""
    return "helm.sh/hook" in one["metadata"].get("annotations", {})


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, those that run first among them."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def as_kubelet(container: Object, environment: Mapping[str, str]) -> list[str]:
    """The arguments as the kubelet hands them over: $(NAME) is replaced, $$ is a dollar.

    `environment` gives what the kubelet takes from the pod. A name that is not defined stays as it is (Kubernetes'
    documentation of `args`).
    """
    values = {
        entry["name"]: entry["value"] if "value" in entry else environment[entry["name"]]
        for entry in container.get("env", [])
    }

    def replaced(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        return values.get(match["name"], match[0])

    return [_REFERENCE.sub(replaced, argument) for argument in container.get("args", [])]


@dataclass
class Chart:
    """The chart, rendered by a helm; the same values are rendered once."""

    helm: Path
    home: Path
    _known: dict[str, Rendered] = field(default_factory=dict)

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        name: str = "peili",
        namespace: str = "peili-system",
        kubernetes: str = NEWEST,
    ) -> Rendered:
        """Render a release; raise RenderFailed."""
        text = json.dumps({"image": {"repository": "registry.example.com/peili"}, **(values or {})})
        key = json.dumps([text, name, namespace, kubernetes])
        if key not in self._known:
            said = self.run(
                "template",
                name,
                CHART,
                "--namespace",
                namespace,
                "--kube-version",
                kubernetes,
                "-f",
                "-",
                stdin=text,
            )
            self._known[key] = Rendered(tuple(load_all(said)))
        return self._known[key]

    def run(self, *arguments: str | Path, stdin: str = "", kubeconfig: Path = Path("/dev/null")) -> str:
        """Run helm and return what it printed; raise RenderFailed with what it complained of."""
        homes = {f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [self.helm, *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=HELM_TIMEOUT,
            env={**os.environ, **homes, "HOME": str(self.home), "KUBECONFIG": str(kubeconfig)},
        )
        if done.returncode:
            raise RenderFailed(done.stderr.strip())
        return done.stdout


def load_all(text: str) -> Iterable[Object]:
    """The documents of a YAML stream, empty ones left out. A key that stands twice is an error."""
    yaml: Any = importlib.import_module("yaml")

    class Strict(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = {str(key) for key in keys if keys.count(key) > 1}
            assert not twice, f"{twice} stand twice, line {node.start_mark.line + 1}"
            return super().construct_mapping(node, deep)

    return [document for document in yaml.load_all(text, Loader=Strict) if document is not None]
