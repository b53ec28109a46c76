"""What a node itself lacks: descriptors, pipes, space on containerd's disk, the right time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.lab.clock import Clock
from tests.integration.lab.cold import PULL_TIMEOUT, SLACK, ColdPulls, check_bytes, received
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.cri import CriError
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.leaks import use
from tests.integration.lab.node import REGISTRY_PORT, Node, manifest_path
from tests.integration.lab.processes import command
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = [pytest.mark.containerd, pytest.mark.usefixtures("nothing_is_left")]

SIZE = 6 << 20  # bytes of a layer
FEW = 12  # descriptors above those in use
CROWD = 40  # connections of others
DISK = 32 << 20  # bytes of the small disk
RATE = 100  # Mbit/s that the upstream sends
DAY = 86400


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> Iterator[list[Node]]:
    """A holder, two pullers, and a node whose containerd has a small disk."""
    nodes = lab.containerds([VERSIONS[-1], VERSIONS[0], VERSIONS[1], VERSIONS[-1]])
    small = nodes[-1].containerd
    small.stop()
    command("mount", "-t", "tmpfs", "-o", f"size={DISK}", "peili-lab", str(small.root))
    try:
        small.start()
        small.wait_ready()
        for node in nodes:
            node.configure()
            node.start_peili()
        for node in nodes:
            node.wait_peili()
        yield nodes
        for node in nodes:
            node.close()
    finally:
        command("umount", "--lazy", str(small.root))


@pytest.fixture
def holder(nodes: list[Node]) -> Node:
    return nodes[0]


@pytest.fixture
def puller(nodes: list[Node]) -> Node:
    return nodes[1]


def held(lab: Lab, holder: Node, puller: Node, name: str, layers: int = 1) -> tuple[Image, str]:
    """An image that the holder has and the puller finds."""
    image = lab.pool.random_image(name, layers, SIZE)
    reference = lab.registry().add(image, "lacks/image", name)
    holder.pull(reference)
    wait_offered(puller, reference, image)
    return image, reference


# Descriptors


@contextmanager
def crowd(node: Node, reference: str, image: Image) -> Iterator[None]:
    """Clients that ask this node for the layer, and stay, whatever comes of it."""
    registry, path = manifest_path(reference)
    target = f"/v2/{path.partition('/manifests/')[0]}/blobs/{image.layers[0].digest}?ns={registry}"
    asking = f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    clients: list[socket.socket] = []

    def come() -> None:
        for _ in range(CROWD):
            client = socket.create_connection((node.loopback, REGISTRY_PORT), 5)
            client.sendall(asking)
            clients.append(client)

    node.namespace.inside(come)
    try:
        yield
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("short", ["puller", "holder"])
def test_out_of_descriptors(lab: Lab, holder: Node, puller: Node, short: str) -> None:
    image, reference = held(lab, holder, puller, f"descriptors-{short}", 3)
    node = {"puller": puller, "holder": holder}[short]
    pid = node.peili.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (use(node).descriptors + FEW, limits[1]))
    try:
        with crowd(node, reference, image):
            puller.pull(reference, PULL_TIMEOUT)  # from the holder or from upstream
        assert puller.holds(image)
        assert node.peili.running()
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: node.ready().status == 200, "ready again", PULL_TIMEOUT)
    again, reference = held(lab, holder, puller, f"descriptors-{short}-again")
    with stopped(lab.registry()):
        puller.pull(reference, PULL_TIMEOUT)
    assert puller.holds(again)


# Pipes


@contextmanager
def no_pipe_pages() -> Iterator[None]:
    """This user's share of pipe pages is used up (pipe(7), pipe-user-pages-soft)."""
    soft = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    most = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    ends: list[int] = []
    try:
        for _ in range(soft * os.sysconf("SC_PAGESIZE") // most + 1):
            ends += os.pipe()
            fcntl.fcntl(ends[-1], fcntl.F_SETPIPE_SZ, most)  # with our rights it may grow beyond the share
        yield
    finally:
        for end in ends:
            os.close(end)


def pipe_sizes(pid: int) -> list[int]:
    """Of the pipes that a process has open, in bytes."""
    sizes = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if str(path.readlink()).startswith("pipe:"):
                with path.open("rb") as pipe:
                    sizes.append(fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ))
    return sizes


def test_pipes_at_their_limit(lab: Lab, holder: Node, puller: Node) -> None:
    """Without CAP_SYS_RESOURCE and CAP_SYS_ADMIN, as in a container, a new pipe has two pages then."""
    puller.stop_peili()
    puller.wrapper = ["setpriv", "--bounding-set", "-sys_resource,-sys_admin", "--"]
    puller.start_peili()
    puller.wait_peili()
    image, reference = held(lab, holder, puller, "pipes", 3)
    holder.namespace.limit(RATE)
    try:
        with stopped(lab.registry()), no_pipe_pages(), ThreadPoolExecutor(1) as pool:
            pull = pool.submit(puller.pull, reference, PULL_TIMEOUT)
            wait_until(lambda: received(puller, image.layers[0]) > 0 or pull.done(), "it has begun")
            sizes = pipe_sizes(puller.peili.pid)
            pull.result(PULL_TIMEOUT)
    finally:
        holder.namespace.limit(None)
        puller.wrapper = []
    assert puller.holds(image)
    assert max(sizes, default=0) <= 64 * 1024, "the limit does not hold here"
    assert puller.ready().status == 200


# The disk


@contextmanager
def full_disk(node: Node, room: int) -> Iterator[None]:
    """Only so many bytes are left where this node's containerd writes."""
    path = node.containerd.root / "filler"
    with path.open("wb") as file:
        status = os.statvfs(node.containerd.root)
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - room)
    try:
        yield
    finally:
        path.unlink()


def test_a_full_disk_fails_its_own_pull_and_nothing_else(lab: Lab, holder: Node, nodes: list[Node]) -> None:
    small, other = nodes[-1], nodes[1]
    kept, kept_reference = held(lab, small, other, "before-the-disk-is-full")
    image, reference = held(lab, holder, small, "too-large")
    with full_disk(small, SIZE // 2):
        with pytest.raises(CriError, match="no space left"):
            small.pull(reference, PULL_TIMEOUT)
        assert small.ready().status == 200
        with stopped(lab.registry()):
            other.pull(kept_reference, PULL_TIMEOUT)  # the only holder has the full disk
        assert other.holds(kept)
    with stopped(lab.registry()):
        small.pull(reference, PULL_TIMEOUT)
    assert small.holds(image)


def test_a_leader_whose_disk_is_full_holds_nobody_up(lab: Lab, nodes: list[Node]) -> None:
    *others, small = nodes
    image = lab.pool.random_image("cold-and-full", 1, 2 * SIZE)
    registry = lab.registry()
    reference = registry.add(image, "lacks/cold", "1")
    lab.upstream.limit(RATE)
    try:
        with full_disk(small, SIZE), ColdPulls(image, registry) as pulls:
            pull = pulls.start(small, reference)
            pulls.wait_received(small, 1)
            pulls.start_all(others, reference)
            pulls.wait(*others)
            with pytest.raises(CriError, match="no space left"):
                pull.result(PULL_TIMEOUT)
            single = image.layers[0].size * 8 / RATE / 1e6
            assert max(pulls.seconds.values()) <= 2 * single + SLACK
            assert pulls.ratio() <= 2.05
    finally:
        lab.upstream.limit(None)
    check_bytes(others, image)


# The time


def test_the_clock_jumps(lab: Lab, holder: Node, puller: Node) -> None:
    """In an open cluster nothing comes of it; with a secret requests are refused until the clock is right again."""
    clock, secret = Clock(lab.directory), lab.directory / "secret"
    secret.write_text("a secret of the laboratory's, long enough for anybody\n")
    secret.chmod(0o600)
    for options in ((), ("--cluster-secret-file", str(secret))):
        for node in (holder, puller):
            node.stop_peili()
            node.environment = clock.environment if node is puller else {}
            node.options = [*options]
            node.start_peili()
        for node in (holder, puller):
            node.wait_peili()
        _jump(lab, holder, puller, clock, secret=bool(options))
    for node in (holder, puller):
        node.stop_peili()
        node.environment, node.options = {}, []
        node.start_peili()
    for node in (holder, puller):
        node.wait_peili()


def _jump(lab: Lab, holder: Node, puller: Node, clock: Clock, *, secret: bool) -> None:
    for days in (-400, 400):
        image, reference = held(lab, holder, puller, f"clock-{secret}-{days}")
        clock.set(days * DAY)
        traffic = Traffic(lab.registry())
        puller.pull(reference, PULL_TIMEOUT)
        assert puller.holds(image)
        assert _year(puller) != time.gmtime().tm_year, "the clock did not jump"
        sent = sum(request.sent for request in traffic.requests() if request.blob)
        assert (sent > 0) == secret, "who has a secret is not believed with another time, else the peer gives all"
        assert puller.ready().status == 200
        clock.set(0)
    image, reference = held(lab, holder, puller, f"clock-{secret}-right-again")
    with stopped(lab.registry()):
        puller.pull(reference, PULL_TIMEOUT)
    assert puller.holds(image)


def _year(node: Node) -> int:
    """By its own clock: of the last line of its log."""
    last = node.log.read_text().splitlines()[-1]
    return int(str(json.loads(last)["time"])[:4])
