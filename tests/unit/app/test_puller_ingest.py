"""The demo's writer of blobs and its puller: what peers can follow is there during a pull, and gone after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from peili.demo.images import Image, Layout, build_image, build_index
from peili.demo.ingest import PIECE, Ingest, WrongDigest
from peili.demo.puller import Host, Pull, PullFailed
from peili.demo.upstream import Upstream
from peili.http.client import Client
from peili.http.message import SocketAddress
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from peili.oci.reference import Reference
from peili.store.growing import LAYOUT_NAMESPACE, Ingests, ingest_directory
from tests.fakes.ingests import LAYER, layer_of
from tests.fakes.nodes import next_host

REFERENCE = Reference.parse("registry.demo/team/app:1")
DESCRIPTOR, CONTENT = layer_of("demo", 2 * PIECE + 7)


def leftovers(directory: Path) -> list[str]:
    return [str(path) for path in directory.glob("ingest/*/*")]


def test_bytes_reach_the_file_in_whole_pieces_and_the_last_ones_at_the_end(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path, DESCRIPTOR)
    sizes = []
    for start in range(0, len(CONTENT), PIECE // 2 + 1):
        ingest.write(CONTENT[start : start + PIECE // 2 + 1])
        sizes.append(ingest.data.stat().st_size)
    assert sizes == [0, PIECE, PIECE, 2 * PIECE, len(CONTENT)]
    assert ingest.offset == len(CONTENT)
    inode = ingest.data.stat().st_ino
    ingest.commit()
    committed = Layout(tmp_path).path(DESCRIPTOR.digest)
    assert committed.read_bytes() == CONTENT
    assert committed.stat().st_ino == inode
    assert list((tmp_path / "ingest").iterdir()) == []


def test_a_leftover_is_gone_on_with(tmp_path: Path) -> None:
    first = Ingest(tmp_path, DESCRIPTOR)
    first.write(CONTENT[: PIECE + 5])
    first.close()
    second = Ingest(tmp_path, DESCRIPTOR)
    assert second.offset == PIECE  # what had not reached the file is lost
    second.write(CONTENT[second.offset :])
    second.commit()
    assert Layout(tmp_path).path(DESCRIPTOR.digest).read_bytes() == CONTENT


def test_wrong_bytes_are_not_committed(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path, DESCRIPTOR)
    ingest.write(bytes(DESCRIPTOR.size))
    with pytest.raises(WrongDigest, match="unexpected commit digest"):
        ingest.commit()
    assert not Layout(tmp_path).path(DESCRIPTOR.digest).exists()
    ingest.abort()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (LAYER, "layer"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "layer"),
        (OCI_CONFIG, "config"),
        (OCI_MANIFEST, "manifest"),
        (OCI_INDEX, "index"),
        ("application/octet-stream", "unknown"),
    ],
)
def test_the_key_names_the_kind_as_containerd_does(tmp_path: Path, media_type: str, kind: str) -> None:
    descriptor = Descriptor(DESCRIPTOR.digest, media_type, DESCRIPTOR.size)
    ingest = Ingest(tmp_path, descriptor)
    assert ingest.data.parent == ingest_directory(tmp_path, LAYOUT_NAMESPACE, kind, descriptor.digest)
    assert (ingest.data.parent / "ref").read_text() == f"layout/1/{kind}-{descriptor.digest}"
    ingest.close()


class Cluster:
    """An upstream with one image, and a layout that is pulled into."""

    def __init__(self, directory: Path, image: Image, client: Client) -> None:
        self.upstream = Upstream(SocketAddress(next_host(), 5002), 1e9)
        self.upstream.push("team/app:1", image)
        self.layout = Layout(directory)
        self.image = image
        self._client = client

    def pull(self) -> Pull:
        return Pull(self._client, [Host("upstream", self.upstream.address)], self.layout, REFERENCE)


@asynccontextmanager
async def cluster(directory: Path, image: Image) -> AsyncIterator[Cluster]:
    client = Client()
    cluster = Cluster(directory, image, client)
    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.upstream.run)
        yield cluster
        nursery.cancel_scope.cancel()
    await client.aclose()


async def test_a_pull_is_whole_and_leaves_no_ingest(tmp_path: Path) -> None:
    image = build_index("pull", platforms=("linux/amd64",), layer_sizes=(3 * PIECE, 100))
    async with cluster(tmp_path, image) as found:
        await found.pull().run()
    for digest, content in image.blobs.items():
        assert found.layout.path(digest).read_bytes() == content
    assert leftovers(tmp_path) == []


async def test_every_ingest_is_there_before_its_first_request(tmp_path: Path) -> None:
    image = build_image("before", layer_sizes=(1000,))
    seen: dict[Digest, int] = {}
    async with cluster(tmp_path, image) as found:
        real = Pull._ask

        async def ask(self: Pull, host: Host, method: str, kind: str, name: str, offset: int) -> object:
            if method == "GET":
                blob = Ingests(LAYOUT_NAMESPACE).open(tmp_path, Digest.parse(name))
                assert blob is not None
                with blob:
                    assert blob.size() == 0
                    seen[blob.digest] = blob.total
            return await real(self, host, method, kind, name, offset)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pull, "_ask", ask)
            await found.pull().run()
    assert seen == {digest: len(content) for digest, content in image.blobs.items()}


async def test_two_pulls_into_one_layout_fetch_each_blob_once(tmp_path: Path) -> None:
    image = build_image("twice", layer_sizes=(PIECE, 1000))
    async with cluster(tmp_path, image) as found, trio.open_nursery() as nursery:
        nursery.start_soon(found.pull().run)
        nursery.start_soon(found.pull().run)
    assert found.upstream.bytes_sent == image.size


async def test_a_pull_that_fails_leaves_no_ingest(tmp_path: Path) -> None:
    image = build_image("fails", layer_sizes=(PIECE, 1000))
    other = {digest: b"x" * len(content) for digest, content in image.blobs.items() if digest in dict.fromkeys(
        layer.digest for layer in image.layers
    )}  # fmt: skip
    corrupt = Image(image.descriptor, image.platform, image.config, image.layers, (), {**image.blobs, **other})
    async with cluster(tmp_path, corrupt) as found:
        with pytest.RaisesGroup(PullFailed, flatten_subgroups=True, allow_unwrapped=True):
            await found.pull().run()
    assert leftovers(tmp_path) == []


async def test_a_pull_that_is_cancelled_leaves_no_ingest(tmp_path: Path) -> None:
    image = build_image("cancelled", layer_sizes=(8 * PIECE,))
    async with cluster(tmp_path, image) as found, trio.open_nursery() as nursery:
        pull = found.pull()
        pull.progress = lambda count: nursery.cancel_scope.cancel() if sum(pull.received.values()) > PIECE else None
        nursery.start_soon(pull.run)
    assert not found.layout.path(image.layers[0].digest).exists()
    assert leftovers(tmp_path) == []
