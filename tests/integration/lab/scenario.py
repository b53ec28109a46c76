"""What the scenarios share: waiting for offers, an upstream that is away for a while, building an image."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.integration.lab.containerd import NAMESPACE, Containerd
from tests.integration.lab.cri import CALL_TIMEOUT, message, text, varint
from tests.integration.lab.images import Blob, Image
from tests.integration.lab.node import OFFER_TIMEOUT, Node
from tests.integration.lab.upstream import Registry
from tests.integration.lab.waiting import wait_until


def wait_offered(asker: Node, reference: str, image: Image, timeout: float = OFFER_TIMEOUT) -> None:
    """Wait until `asker`, which may hold nothing of it, finds the whole image among its peers, tag and all."""

    def all_found() -> bool:
        assert asker.finds(reference), "the tag is not found"
        missing = {blob.digest for blob in image.pulled} - found(asker, reference, image)
        assert not missing, f"not found: {missing}"
        return True

    wait_until(all_found, f"{reference} offered, asked by {asker!r}", timeout)


def wait_gone(asker: Node, reference: str, image: Image, timeout: float = OFFER_TIMEOUT) -> None:
    """Wait until nothing of the image is found, and nobody is even asked for it: the offers are withdrawn."""

    def none_found() -> bool:
        assert not asker.finds(reference), "the tag is still found"
        left = found(asker, reference, image)
        assert not left, f"still found: {left}"
        names = [reference.rpartition(":")[2], *(blob.digest for blob in image.pulled)]
        tried = {name for name in names if asker.attempts(name)}
        assert not tried, f"somebody still offers {tried}"
        return True

    wait_until(none_found, f"{reference} no longer offered, asked by {asker!r}", timeout)


def found(asker: Node, reference: str, image: Image) -> set[str]:
    """Which digests of the image `asker` finds."""
    name = reference.rpartition(":")[0]
    manifests = {blob.digest for blob in image.manifests if asker.finds(f"{name}@{blob.digest}")}
    blobs = (image.config, *image.layers)
    return manifests | {blob.digest for blob in blobs if asker.finds_blob(reference, blob)}


@contextmanager
def stopped(*registries: Registry) -> Iterator[None]:
    """These registries do not answer meanwhile."""
    for registry in registries:
        registry.stop()
    try:
        yield
    finally:
        for registry in registries:
            registry.start()


@contextmanager
def without_peili(nodes: Iterable[Node]) -> Iterator[None]:
    """Peili has ended on these nodes meanwhile, and is ready again afterwards."""
    nodes = list(nodes)
    for node in nodes:
        node.begin_stop()
    for node in nodes:
        assert node.stop_peili() == 0, node.log.read_text(errors="replace")[-4000:]
    try:
        yield
    finally:
        for node in nodes:
            node.start_peili()
        for node in nodes:
            node.wait_peili()


def layout_tar(path: Path, image: Image, reference: str) -> Path:
    """Write an OCI layout as a tar file, as `docker save`, `ctr export` and skopeo make it, for `ctr import`."""
    annotations = {"io.containerd.image.name": reference}
    index = {"schemaVersion": 2, "manifests": [image.top.descriptor(annotations=annotations)]}
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add("index.json", json.dumps(index).encode())
        for blob in image.blobs:
            tar.add(blob.path, f"blobs/sha256/{blob.path.name}")
    return path


def build(node: Node, image: Image, reference: str) -> None:
    """Do what a builder does (buildkit, nerdctl): write the content under a lease, then the image's name."""
    containerd = node.containerd
    lease = f"build-{image.top.digest}"
    call(containerd, "leases.v1.Leases/Create", text(1, lease))
    for blob in (*image.layers, image.config, *reversed(image.manifests)):
        children = _children(image, blob.digest)
        labels = {f"containerd.io/gc.ref.content.{number}": digest for number, digest in enumerate(children)}
        _write(containerd, blob, labels, lease)
    target = text(1, image.top.media_type) + text(2, image.top.digest) + _number(3, image.top.size)
    call(containerd, "images.v1.Images/Create", message(1, text(1, reference) + message(3, target)))
    call(containerd, "leases.v1.Leases/Delete", text(1, lease))


def _children(image: Image, digest: str) -> list[str]:
    """What a manifest or an index names, for its labels."""
    if digest == image.manifest.digest:
        return [blob.digest for blob in (image.config, *image.layers)]
    return [image.manifest.digest] if digest == image.top.digest else []


def _write(containerd: Containerd, blob: Blob, labels: dict[str, str], lease: str) -> None:
    """Write a blob in one message and commit it (services/content/v1, WriteContentRequest)."""
    fields = [
        _number(1, 2),  # action: COMMIT
        text(2, f"build-{blob.digest}"),
        _number(3, blob.size),
        text(4, blob.digest),
        message(6, blob.path.read_bytes()),
        *(message(7, text(1, name) + text(2, value)) for name, value in labels.items()),
    ]
    with _api(containerd) as channel:
        write = channel.stream_stream("/containerd.services.content.v1.Content/Write")
        metadata = [("containerd-namespace", NAMESPACE), ("containerd-lease", lease)]
        for _ in write(iter([b"".join(fields)]), timeout=CALL_TIMEOUT, metadata=metadata):
            pass


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _api(containerd: Containerd) -> grpc.Channel:
    return grpc.insecure_channel(f"unix://{containerd.socket}", options=[("grpc.enable_http_proxy", 0)])


def call(containerd: Containerd, method: str, request: bytes) -> None:
    """One call of containerd's own API, in the CRI's namespace; `method` below containerd.services."""
    with _api(containerd) as channel:
        metadata = [("containerd-namespace", NAMESPACE)]
        channel.unary_unary(f"/containerd.services.{method}")(request, timeout=CALL_TIMEOUT, metadata=metadata)
