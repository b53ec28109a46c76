"""Cold pulls: several nodes pull the same new image at once, and the upstream sends it about once."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.images import Image
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.node import Node
from tests.integration.lab.upstream import Registry, Traffic

pytestmark = pytest.mark.containerd

RATE = 100  # Mbit/s that the upstream sends
SIZE = 24 << 20  # bytes of an image's layers: about two seconds
PULL_TIMEOUT = 60.0  # seconds
CLUSTER = (VERSIONS[0], VERSIONS[2], VERSIONS[1], VERSIONS[2], VERSIONS[0])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        laboratory.upstream.limit(RATE)
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> list[Node]:
    return lab.cluster(CLUSTER)


@pytest.fixture
def registry(lab: Lab) -> Registry:
    return lab.registry()


class Pulls:
    """Pulls on several nodes at once. `seconds`: how long each took."""

    def __init__(self, registry: Registry, image: Image) -> None:
        self.image = image
        self.traffic = Traffic(registry)
        self.seconds: dict[Node, float] = {}

    def run(self, nodes: Sequence[Node], reference: str, pause: float = 0.0) -> None:
        """Pull on all of them, each a pause after the one before; return at the end of all."""

        def pull(number: int) -> None:
            time.sleep(number * pause)  # how staggered the pulls are is what is tested
            started = time.monotonic()
            nodes[number].pull(reference, PULL_TIMEOUT)
            self.seconds[nodes[number]] = time.monotonic() - started

        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(pull, range(len(nodes))))

    def ratio(self) -> float:
        """What the upstream sent of the layers, in sizes of all layers."""
        layers = {layer.digest for layer in self.image.layers}
        sent = sum(r.sent for r in self.traffic.requests() if r.uri.rpartition("/")[2] in layers)
        return sent / sum(layer.size for layer in self.image.layers)

    def others(self) -> Counter[str]:
        """How often the upstream sent each manifest, index and config."""
        small = {blob.digest for blob in (*self.image.manifests, self.image.config)}
        names = [r.uri.rpartition("/")[2] for r in self.traffic.content() if r.method == "GET"]
        return Counter(name for name in names if name in small)


def check_bytes(nodes: Sequence[Node], image: Image) -> None:
    """Every node has every blob, and its bytes are right."""
    for node in nodes:
        for blob in image.pulled:
            with node.containerd.blob(blob.digest).open("rb") as file:
                assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest, node


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("pause", [0.0, 0.3], ids=["at once", "staggered"])
def test_one_download_for_all(
    lab: Lab, nodes: list[Node], registry: Registry, layers: int, pause: float, record_property: Callable[..., None]
) -> None:
    image = lab.pool.random_image(f"cold-{layers}-{pause}", layers, SIZE // layers)
    reference = registry.add(image, "cold/pull", f"{layers}-{pause}")
    pulls = Pulls(registry, image)

    pulls.run(nodes, reference, pause)

    print("seconds", [round(s, 2) for s in pulls.seconds.values()], "ratio", pulls.ratio(), pulls.others())
    check_bytes(nodes, image)
    assert pulls.ratio() <= (1.05 if layers == 1 else 1.15)
    assert max(pulls.others().values()) <= 2
