"""Generated secrets survive upgrades: helm looks them up in a cluster that a test plays."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import CHART, NEWEST, Chart, Object, load_all

pytestmark = pytest.mark.slow
SECRET = "/api/v1/namespaces/peili-system/secrets/peili-secrets"
VALUES: Object = {"image": {"repository": "registry.example.com/peili"}}
WITH_PASSWORD: Object = {**VALUES, "basicAuth": {"enabled": True}}


class Cluster:
    """A Kubernetes API that knows Secrets, and holds at most one: what the release made before."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.held: Object | None = None
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = cluster.answer(self.path.partition("?")[0])
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        names = {"cluster": "a", "user": "a"}
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "a", "cluster": {"server": address}}],
                    "users": [{"name": "a", "user": {}}],
                    "contexts": [{"name": "a", "context": names}],
                    "current-context": "a",
                }
            )
        )

    def answer(self, path: str) -> tuple[int, Object]:
        if path == "/api/v1":
            kind = {
                "name": "secrets",
                "singularName": "secret",
                "namespaced": True,
                "kind": "Secret",
                "verbs": ["get"],
            }
            return 200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [kind]}
        if path == SECRET and self.held is not None:
            return 200, self.held
        return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}

    def __enter__(self) -> Cluster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(name="cluster")
def played_cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "kubeconfig") as cluster:
        yield cluster


def upgrade(chart: Chart, cluster: Cluster, values: Object) -> dict[str, str]:
    """Render against the cluster, which holds the Secret afterwards; what is in it, and the pods' revision."""
    words = ("--namespace", "peili-system", "--kube-version", NEWEST, "--dry-run=server")
    text = chart.run(
        "template", "peili", CHART, *words, "-f", "-", stdin=json.dumps(values), kubeconfig=cluster.kubeconfig
    )
    objects = list(load_all(text))
    (cluster.held,) = [one for one in objects if one["kind"] == "Secret"]
    (mirror,) = [one for one in objects if one["kind"] == "DaemonSet" and one["metadata"]["name"] == "peili"]
    annotations = mirror["spec"]["template"]["metadata"]["annotations"]
    data = {name: base64.b64decode(value).decode() for name, value in cluster.held["data"].items()}
    return {**data, "of the pods": annotations.get("peili/basic-auth-revision", "")}


def test_an_upgrade_changes_no_secret_and_restarts_no_pod(chart: Chart, cluster: Cluster) -> None:
    first = upgrade(chart, cluster, WITH_PASSWORD)
    assert first["basic-auth"].startswith("peili:")
    assert first["of the pods"] == first["basicAuthRevision"] != ""
    assert upgrade(chart, cluster, WITH_PASSWORD) == first
    assert upgrade(chart, cluster, {**WITH_PASSWORD, "logLevel": "debug"}) == first


def test_what_an_operator_put_into_the_secret_stays(chart: Chart, cluster: Cluster) -> None:
    upgrade(chart, cluster, VALUES)
    assert cluster.held is not None
    rotating = "the-old-secret-of-16\nthe-new-secret-of-16\n"
    cluster.held["data"]["cluster-secret"] = base64.b64encode(rotating.encode()).decode()
    assert upgrade(chart, cluster, VALUES)["cluster-secret"] == rotating


def test_a_password_that_comes_later_leaves_the_cluster_secret(chart: Chart, cluster: Cluster) -> None:
    before = upgrade(chart, cluster, VALUES)
    assert before.keys() == {"cluster-secret", "of the pods"}
    after = upgrade(chart, cluster, WITH_PASSWORD)
    assert after["cluster-secret"] == before["cluster-secret"]
    assert after["of the pods"] != before["of the pods"]


@pytest.mark.parametrize("change", [{"password": "other"}, {"username": "nodes"}])
def test_a_new_password_or_user_restarts_the_pods(chart: Chart, cluster: Cluster, change: Object) -> None:
    before = upgrade(chart, cluster, WITH_PASSWORD)
    changed = {**VALUES, "basicAuth": {"enabled": True, **change}}
    after = upgrade(chart, cluster, changed)
    assert after["basic-auth"] != before["basic-auth"]
    assert after["of the pods"] != before["of the pods"]
    assert upgrade(chart, cluster, changed) == after
