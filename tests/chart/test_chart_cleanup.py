"""The programs that the clean-up hook brings along, against a Kubernetes API that a test plays."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FILES = Path(__file__).parents[2] / "charts/peili/files"
TIMEOUT = 30.0  # seconds, for each program


def write_certificate(directory: Path) -> None:
    """A certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class Api:
    """A Kubernetes API: answers a DaemonSet as scripted, one answer after the other, the last for ever."""

    def __init__(self, account: Path) -> None:
        self.account = account
        self.daemonset: list[tuple[int, dict[str, Any]]] = []
        self.pods: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = api.answer(self.path, self.headers.get("Authorization", ""))
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(account / "ca.crt", account / "key.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, authorization))
        if "/pods?" in path:
            return 200, {"items": self.pods}
        return self.daemonset.pop(0) if len(self.daemonset) > 1 else self.daemonset[0]

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run the program against this API."""
        host, port = self._server.server_address[:2]
        environment = {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": str(host),
            "KUBERNETES_SERVICE_PORT": str(port),
            "PEILI_SERVICE_ACCOUNT": str(self.account),
        }
        command = [sys.executable, str(FILES / "wait_for_cleanup.py"), "peili-cleanup", "a=b,c=d", str(seconds)]
        return subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )


@pytest.fixture(name="api")
def played_api(tmp_path: Path) -> Iterator[Api]:
    write_certificate(tmp_path)
    (tmp_path / "token").write_text("secret-token\n")
    (tmp_path / "namespace").write_text("peili-system")
    with Api(tmp_path) as api:
        yield api


def status(ready: int, wanted: int, *, seen: int = 2) -> tuple[int, dict[str, Any]]:
    numbers = {"observedGeneration": seen, "numberReady": ready, "desiredNumberScheduled": wanted}
    return 200, {"metadata": {"generation": 2}, "status": numbers}


def pod(node: str, *, ready: bool = False, waiting: str = "", scheduled: bool = True) -> dict[str, Any]:
    field = {"key": "metadata.name", "values": [node]}
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}}
    spec: dict[str, Any] = {"affinity": {"nodeAffinity": terms}, **({"nodeName": node} if scheduled else {})}
    states = [{"state": {"waiting": {"reason": waiting}}}] if waiting else []
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "spec": spec,
        "status": {"phase": "Pending", "conditions": conditions, "initContainerStatuses": states},
    }


def test_it_waits_until_every_node_is_done(api: Api) -> None:
    api.daemonset = [status(0, 0, seen=1), status(1, 3), status(3, 3)]
    done = api.wait(30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["waiting for the clean-up to start", "1 of 3 nodes", "3 of 3 nodes"]
    path = "/apis/apps/v1/namespaces/peili-system/daemonsets/peili-cleanup"
    assert set(api.asked) == {(path, "Bearer secret-token")}


def test_a_release_without_nodes_is_done_at_once(api: Api) -> None:
    api.daemonset = [status(0, 0)]
    assert api.wait(30).returncode == 0


def test_an_api_that_is_away_for_a_moment_is_asked_again(api: Api) -> None:
    api.daemonset = [(503, {}), status(2, 2)]
    done = api.wait(30)
    assert done.returncode == 0
    assert "503" in done.stdout


def test_in_the_end_it_names_the_nodes_that_are_not_done(api: Api) -> None:
    api.daemonset = [status(1, 4)]
    api.pods = [
        pod("a", ready=True),
        pod("d", waiting="ImagePullBackOff"),
        pod("b", waiting="PodInitializing"),
        pod("c", scheduled=False),
    ]
    done = api.wait(1.5)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1 of 4 nodes", "not all nodes are cleaned up after 1.5 s"]
    assert lines[2:5] == ["  b (Pending)", "  c (Pending)", "  d (ImagePullBackOff)"]
    assert "labelSelector=a%3Db%2Cc%3Dd" in api.asked[-1][0]


def test_it_trusts_only_the_clusters_own_authority(api: Api, tmp_path: Path) -> None:
    api.daemonset = [status(1, 1)]
    write_certificate(tmp_path)  # another authority than the one that the server shows
    done = api.wait(1.5)
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stdout
    assert api.asked == []


def test_idle_ends_at_once_when_it_is_told_to() -> None:
    with subprocess.Popen([sys.executable, FILES / "idle.py"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "cleaned up; waiting to be removed\n"
        try:
            program.send_signal(signal.SIGTERM)
            assert program.wait(TIMEOUT) == 0
        finally:
            program.kill()


def forget(directory: Path) -> str:
    command = [sys.executable, str(FILES / "forget_identity.py"), str(directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    return done.stdout


def test_an_identity_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    ours, shared = tmp_path / "ours", tmp_path / "shared"
    for directory in (ours, shared):
        directory.mkdir()
        (directory / "identity.pem").write_text("key")
    (shared / "precious").write_text("kept")
    assert forget(ours) == ""
    assert not ours.exists()
    assert "stays" in forget(shared)
    assert [path.name for path in shared.iterdir()] == ["precious"]
    assert forget(tmp_path / "never there") == ""


def test_the_identity_file_is_the_one_that_the_router_writes() -> None:
    from peili.routing.kademlia.settings import IDENTITY_FILE

    assert f'IDENTITY_FILE = "{IDENTITY_FILE}"' in (FILES / "forget_identity.py").read_text()
