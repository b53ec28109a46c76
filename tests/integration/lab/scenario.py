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
from tests.integration.lab.cri import message, text, varint
from tests.integration.lab.images import Image
from tests.integration.lab.node import OFFER_TIMEOUT, Node
from tests.integration.lab.processes import command
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
    """Wait until nothing of the image is found any more: not its tag, no manifest, no blob."""

    def none_found() -> bool:
        assert not asker.finds(reference), "the tag is still found"
        left = found(asker, reference, image)
        assert not left, f"still found: {left}"
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
    """Do what a builder does (buildkit, nerdctl): write the content, then the image's name, and nothing else."""
    containerd = node.containerd
    for blob in (*image.layers, image.config, *reversed(image.manifests)):
        children = [] if blob.digest not in _manifest_digests(image) else _children(image, blob.digest)
        labels = [f"containerd.io/gc.ref.content.{number}={digest}" for number, digest in enumerate(children)]
        _ingest(node, blob.path, blob.digest, blob.size)
        if labels:
            containerd.ctr("content", "label", blob.digest, *labels)
    target = text(1, image.top.media_type) + text(2, image.top.digest) + _number(3, image.top.size)
    _call(
        containerd,
        "containerd.services.images.v1.Images/Create",
        message(1, text(1, reference) + message(3, target)),
    )


def _manifest_digests(image: Image) -> set[str]:
    return {blob.digest for blob in image.manifests}


def _children(image: Image, digest: str) -> list[str]:
    below = [blob.digest for blob in (image.config, *image.layers)]
    return below if digest == image.manifest.digest else [image.manifest.digest]


def _ingest(node: Node, path: Path, digest: str, size: int) -> None:
    """`ctr content ingest` reads the blob from its standard input."""
    ctr = node.containerd.ctr_words("content", "ingest", "--expected-digest", digest, "--expected-size", str(size))
    command("sh", "-c", 'file=$1; shift; exec "$@" < "$file"', "sh", str(path), *ctr, f"built-{digest}")


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _call(containerd: Containerd, method: str, request: bytes) -> None:
    """One call of containerd's own API, in the CRI's namespace."""
    with grpc.insecure_channel(f"unix://{containerd.socket}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        metadata = [("containerd-namespace", NAMESPACE)]
        channel.unary_unary(f"/{method}")(request, timeout=20, metadata=metadata)
