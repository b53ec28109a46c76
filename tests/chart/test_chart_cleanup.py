"""The programs that the clean-up hook brings along, against a Kubernetes API that a test plays."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FILES = Path(__file__).parents[2] / "charts/peili/files"
TIMEOUT = 30.0  # seconds, for each program


# As Python 3.13, which the image has, makes its contexts; older ones are less strict.
STRICT = """
import runpy, ssl, sys
lenient = ssl.create_default_context
def strict(*arguments, **named):
    context = lenient(*arguments, **named)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
ssl.create_default_context = strict
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write_certificates(directory: Path) -> None:
    """An authority as older clusters have it, without key identifiers, and what it gave to the API at 127.0.0.1."""

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        )

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    authority = certificate("kubernetes", root).add_extension(constraints, critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    server = certificate("kube-apiserver", key).add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(authority.sign(root, hashes.SHA256()).public_bytes(pem))
    (directory / "server.pem").write_bytes(server.sign(root, hashes.SHA256()).public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Api:
    """A Kubernetes API: answers a DaemonSet as scripted, one answer after the other, the last for ever."""

    def __init__(self, account: Path) -> None:
        self.account = account
        self.daemonset: list[tuple[int, dict[str, Any]]] = []
        self.pods: list[dict[str, Any]] = []
        self.page = 100  # pods in one answer
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
        context.load_cert_chain(account / "server.pem", account / "key.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, authorization))
        if "/pods?" in path:
            first = int(parse_qs(path).get("continue", ["0"])[0])
            after = first + self.page
            more = {"continue": str(after)} if after < len(self.pods) else {}
            return 200, {"metadata": more, "items": self.pods[first:after]}
        return self.daemonset.pop(0) if len(self.daemonset) > 1 else self.daemonset[0]

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.server_address[:2]
        return str(host), port

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run the program against this API."""
        host, port = self.address
        environment = {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "PEILI_SERVICE_ACCOUNT": str(self.account),
        }
        program = [sys.executable, "-c", STRICT, str(FILES / "wait_for_cleanup.py")]
        command = [*program, "peili-cleanup", "a=b,c=d", str(seconds)]
        return subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )


@pytest.fixture(name="api")
def played_api(tmp_path: Path) -> Iterator[Api]:
    write_certificates(tmp_path)
    (tmp_path / "token").write_text("secret-token\n")
    (tmp_path / "namespace").write_text("peili-system")
    with Api(tmp_path) as api:
        yield api


def status(ready: int, wanted: int, *, seen: int = 2, age: float = 0.0) -> tuple[int, dict[str, Any]]:
    numbers = {"observedGeneration": seen, "numberReady": ready, "desiredNumberScheduled": wanted}
    made = (datetime.now(UTC) - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return 200, {"metadata": {"generation": 2, "creationTimestamp": made}, "status": numbers}


OTHERS = "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules"
OURS = "0/3 nodes are available: 1 node(s) didn't match pod anti-affinity rules"
ELSEWHERE = (
    ", 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 No victims."
)


def pod(node: str, *, ready: bool = False, waiting: str = "", homeless: str | None = None) -> dict[str, Any]:
    """A clean-up's pod. `homeless`: it was not scheduled, with what the scheduler says, if it said something."""
    field = {"key": "metadata.name", "values": [node]}
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}}
    spec: dict[str, Any] = {"affinity": {"nodeAffinity": terms}, **({"nodeName": node} if homeless is None else {})}
    states = [{"state": {"waiting": {"reason": waiting}}}] if waiting else []
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    if homeless:
        reason = {"reason": "Unschedulable", "message": homeless + ELSEWHERE}
        conditions = [{"type": "PodScheduled", "status": "False", **reason}]
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
        pod("c", homeless=""),
    ]
    done = api.wait(1.5)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1 of 4 nodes", "not all nodes are cleaned up after 1.5 s"]
    assert lines[2:5] == ["  b (Pending)", "  c (Pending)", "  d (ImagePullBackOff)"]
    assert "labelSelector=a%3Db%2Cc%3Dd" in api.asked[-1][0]


def test_the_time_counts_from_the_making_of_the_daemonset(api: Api) -> None:
    api.daemonset = [status(0, 1, age=300)]
    api.pods = [pod("a", waiting="ImagePullBackOff")]
    started = time.monotonic()
    done = api.wait(240)
    assert done.returncode == 1
    assert time.monotonic() - started < TIMEOUT / 2
    assert "  a (ImagePullBackOff)" in done.stdout.splitlines()


def test_who_starts_late_sees_that_all_is_done(api: Api) -> None:
    api.daemonset = [status(1, 1, age=300)]
    assert api.wait(240).returncode == 0


def test_a_node_that_another_release_holds_is_done(api: Api) -> None:
    api.daemonset = [status(1, 3)]
    api.pods = [pod("a", ready=True), pod("b", homeless=OTHERS), pod("c", homeless=OTHERS)]
    api.page = 2
    done = api.wait(20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["1 of 3 nodes", "1 of 3 nodes, 2 held by another release's Peili"]
    assert [path for path, _ in api.asked if "continue=2" in path]


def test_a_node_where_our_own_peili_still_ends_is_not_done(api: Api) -> None:
    api.daemonset = [status(1, 4)]
    api.pods = [
        pod("a", ready=True),
        pod("b", homeless=OTHERS),
        pod("c", homeless=OURS),
        pod("d", homeless="0/3 nodes are available: 1 Insufficient memory"),
    ]
    done = api.wait(20)  # a busy machine needs some of them until the second look
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1 of 4 nodes", "1 of 4 nodes, 1 held by another release's Peili"]
    assert [line.partition(": ")[0] for line in lines[3:5]] == [
        "  c (0/3 nodes are available",
        "  d (0/3 nodes are available",
    ]
    assert "didn't match pod anti-affinity rules" in lines[3]
    assert "preemption" not in done.stdout


def test_an_authority_that_is_not_strict_is_trusted_where_python_is(api: Api) -> None:
    context = ssl.create_default_context(cafile=str(api.account / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(api.address, timeout=TIMEOUT) as connection,
        pytest.raises(ssl.SSLCertVerificationError, match="Missing Authority Key Identifier"),
    ):
        context.wrap_socket(connection, server_hostname="127.0.0.1")
    api.daemonset = [status(1, 1)]
    done = api.wait(20)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_trusts_only_the_clusters_own_authority(api: Api, tmp_path: Path) -> None:
    api.daemonset = [status(1, 1)]
    write_certificates(tmp_path)  # another authority than the one that the server shows
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
