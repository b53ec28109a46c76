"""Cold pulls: pulls of the same new image on several nodes at once, and what the upstream sent for them."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.lab.images import Blob, Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.scenario import wait_offered
from tests.integration.lab.upstream import Registry, Request, Traffic
from tests.integration.lab.waiting import wait_until

# Sizes of the image that upstream may send beyond what is needed, and seconds that a pull may take longer: a busy
# machine may hold a node up until others take it for dead. `make bench` measures both against their goals.
HICCUP = 0.75
SLACK = 6.0
LAPSE = 3.0  # seconds that a follower waits for a lead that gets no byte
PULL_TIMEOUT = 60.0  # seconds; without help of ours a stall lasts minutes


class ColdPulls:
    """Pulls of one image that go on at once, in a `with`. `seconds`: how long each took that ended well."""

    def __init__(self, image: Image, *registries: Registry) -> None:
        self.image = image
        self.traffic = Traffic(*registries)
        self.seconds: dict[Node, float] = {}
        self._pool = ThreadPoolExecutor(16)
        self._pulls: dict[Node, Future[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        seconds = ", ".join(f"{node!r} {took:.2f} s" for node, took in self.seconds.items())
        print(
            f"{seconds}; upstream sent {self.ratio():.3f} times the layers, others {sorted(self.others().values())}"
        )

    def start(
        self, node: Node, reference: str, *, after: float = 0.0, timeout: float = PULL_TIMEOUT
    ) -> Future[str]:
        """Begin a pull, `after` seconds from now: how staggered pulls are is a part of some tests."""

        def pull() -> str:
            time.sleep(after)
            started = time.monotonic()
            identity = node.pull(reference, timeout)
            self.seconds[node] = time.monotonic() - started
            return identity

        self._pulls[node] = future = self._pool.submit(pull)
        return future

    def submit(self, work: Callable[[], None]) -> None:
        """Something else that goes on meanwhile; the end of the `with` waits for it, too."""
        self._pool.submit(work)

    def start_all(self, nodes: Sequence[Node], reference: str, *, pause: float = 0.0) -> None:
        """Begin one pull on each node, a pause after the one before."""
        for number, node in enumerate(nodes):
            self.start(node, reference, after=number * pause)

    def wait(self, *nodes: Node) -> None:
        """Wait until the pulls of these nodes, of all by default, have ended well."""
        for node in nodes or self._pulls:
            self._pulls[node].result(PULL_TIMEOUT)

    def wait_received(self, node: Node, count: int) -> None:
        """Wait until the node's containerd has so many bytes of the first layer."""
        layer = self.image.layers[0]
        wait_until(lambda: received(node, layer) >= count, f"{count} bytes of the layer on {node!r}", PULL_TIMEOUT)

    def leader(self) -> Node:
        """The first node whose containerd was sent upstream for the first layer."""
        name = self.image.layers[0].digest

        def found() -> Node | None:
            return next((node for node in self._pulls if was_sent_upstream(node, name)), None)

        leader = wait_until(found, "somebody leads the layer", PULL_TIMEOUT)
        assert leader is not None
        return leader

    def ratio(self) -> float:
        """What the upstream sent of the layers, in sizes of all of them."""
        layers = {layer.digest: layer.size for layer in self.image.layers}
        sent = sum(request.sent for request in self.layer_requests())
        return sent / sum(layers.values())

    def layer_requests(self) -> list[Request]:
        """The upstream's answers with layers, or parts of them."""
        layers = {layer.digest for layer in self.image.layers}
        return [request for request in self.traffic.content() if request.uri.rpartition("/")[2] in layers]

    def others(self) -> Counter[str]:
        """How often the upstream sent each manifest, index and config."""
        small = {blob.digest for blob in (*self.image.manifests, self.image.config)}
        names = [request.uri.rpartition("/")[2] for request in self.traffic.content() if request.method == "GET"]
        return Counter(name for name in names if name in small)


@contextmanager
def limited_lab(rate: int) -> Iterator[Lab]:
    """A laboratory with a registry that sends so many Mbit/s."""
    with Lab() as laboratory:
        laboratory.registry()
        laboratory.upstream.limit(rate)
        yield laboratory


def warm_cluster(lab: Lab, suites: Sequence[str]) -> list[Node]:
    """Nodes with these containerds, which have all talked with each other already."""
    nodes = lab.cluster(suites)
    warm_up(nodes, lab.registry(), lab.pool.random_image("warm-up", 1, 1000))
    return nodes


def ingest(node: Node, blob: Blob) -> Path:
    """The file of a layer that the node's containerd receives, whether it is there or not."""
    name = hashlib.sha256(f"k8s.io/1/layer-{blob.digest}".encode()).hexdigest()
    return node.containerd.content / "ingest" / name / "data"


def received(node: Node, blob: Blob) -> int:
    """How many bytes of a layer the node's containerd has, committed or not."""
    for path in (node.containerd.blob(blob.digest), ingest(node, blob)):
        try:
            return path.stat().st_size
        except OSError:
            continue
    return 0


def was_sent_upstream(node: Node, name: str) -> bool:
    """Whether Peili has answered 404 to a GET of its containerd for this digest."""
    for line in node.log.read_text(errors="replace").splitlines():
        if name in line and '"event": "request"' in line:
            fields = json.loads(line)
            if fields["handler"] == "mirror" and fields["method"] == "GET" and fields["status"] == 404:
                return True
    return False


def check_bytes(nodes: Sequence[Node], image: Image) -> None:
    """Every node has every blob, and its bytes are right."""
    for node in nodes:
        for blob in image.pulled:
            with node.containerd.blob(blob.digest).open("rb") as file:
                assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest, node


def warm_up(nodes: Sequence[Node], registry: Registry, image: Image) -> None:
    """Pull something on every node, so that no connection of the cluster is new to what follows."""
    reference = registry.add(image, "cold/warm-up", "1")
    for node in nodes:
        node.pull(reference)
    wait_offered(nodes[0], reference, image)
