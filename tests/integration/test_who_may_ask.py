"""A node with a cluster secret in a network of its own: who may ask is told by real addresses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peili.demo.images import Layout, build_image
from peili.members.membership import Membership
from peili.members.request_mac import MEMBER_HEADER
from peili.members.secret_file import read_secrets
from tests.integration.lab.network import Answer, Namespace, Network
from tests.integration.lab.processes import Process, command
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd  # it needs root and namespaces

IMAGE = build_image("integration members", layer_sizes=(200_000,))
TAG = "/v2/library/app/manifests/1?ns=docker.io"
BLOB = f"/v2/library/app/blobs/{IMAGE.layers[0].digest}?ns=docker.io"
MARK = {"X-Peili-Mirrored": "true"}


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    try:
        network.up()
        yield network
    finally:
        network.down()


@contextmanager
def peili(node: Namespace, directory: Path, *more: str) -> Iterator[None]:
    """A node that listens on all addresses of both families, with an image."""
    Layout(directory / "layout").add("docker.io/library/app:1", IMAGE)
    words = [sys.executable, "-m", "peili", "run", "--store", f"layout:{directory / 'layout'}"]
    words += ["--registry-address", "[::]:5000", "--router-address", "[::]:5001"]
    process = Process([*words, "--operations-address", "[::]:9090", *more], directory / "log", node.name)
    try:
        wait_until(lambda: node.get("127.0.0.1", 5000, TAG).status == 200, "the node has its image")
        yield
    finally:
        process.terminate()


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["errors"][0]["code"] if answer.status >= 400 else ""


DENIED = (403, "DENIED")
GOOD = (200, "")


@pytest.mark.parametrize("nonlocal_bind", [False, True], ids=["plain", "ip_nonlocal_bind"])
def test_only_this_machine_and_members_are_answered(
    network: Network, tmp_path: Path, *, nonlocal_bind: bool
) -> None:
    one, two, three = (network.node(number) for number in (1, 2, 3))
    if nonlocal_bind:  # as kube-proxy and keepalived set it: then any address can be bound to
        command("ip", "netns", "exec", one.name, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1")
        command("ip", "netns", "exec", one.name, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")
    secret = tmp_path / "secret"
    secret.write_text("a secret for this test\n")
    member = Membership(read_secrets(secret))
    with peili(one, tmp_path, "--cluster-secret-file", str(secret), "--client-network", f"{three.address}/32"):
        for address in (one.address, one.address6):
            for target in (TAG, BLOB):
                stamp = member.stamp("GET", target)
                assert code(one.get(address, 5000, target)) == GOOD
                assert code(two.get(address, 5000, target)) == DENIED
                assert code(two.get(address, 5000, target, headers=MARK)) == DENIED
                assert code(two.get(address, 5000, target, headers={**MARK, MEMBER_HEADER: stamp})) == GOOD
                assert code(one.get(address, 5000, target, headers=MARK)) == DENIED
        assert code(three.get(one.address, 5000, TAG)) == GOOD
        assert code(three.get(one.address6, 5000, TAG)) == DENIED
        assert two.get(one.address, 9090, "/livez").status == 200


def test_without_a_secret_all_are_answered(network: Network, tmp_path: Path) -> None:
    one, two = (network.node(number) for number in (1, 2))
    with peili(one, tmp_path):
        assert code(two.get(one.address, 5000, TAG)) == GOOD
        assert code(two.get(one.address6, 5000, BLOB)) == GOOD
        assert "everybody who reaches" in (tmp_path / "log").read_text()
