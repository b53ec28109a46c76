"""The builder of images that the tests and the demo pull."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from peili.oci.digest import Digest
from peili.store.manifests import parse_layout_index, parse_manifest
from peili.store.protocol import Kind
from tests.fakes.images import Compression, Layout, build_image, build_index, compress, contents_by_kind


def unzstd(content: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(content) as reader:
        return reader.read()


UNPACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.decompress,
    Compression.ZSTD: unzstd,
    Compression.NONE: bytes,
}


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 300_000])
def test_what_is_packed_unpacks(compression: Compression, size: int) -> None:
    content = b"x" * size
    assert UNPACK[compression](compress(content, compression)) == content


@pytest.mark.parametrize("compression", Compression)
def test_a_layer_unpacks_to_what_the_config_says(compression: Compression) -> None:
    image = build_image("seed", compression=compression)
    assert image.config is not None
    diff_ids = json.loads(image.blobs[image.config.digest])["rootfs"]["diff_ids"]
    tars = [UNPACK[compression](image.blobs[layer.digest]) for layer in image.layers]
    assert [str(Digest.of(tar)) for tar in tars] == diff_ids
    with tarfile.open(fileobj=io.BytesIO(tars[0])) as archive:
        assert archive.getnames() == ["layer-0.bin"]


def test_images_are_the_same_on_every_run_and_differ_by_seed_and_platform() -> None:
    assert build_index("seed") == build_index("seed")
    one, two = build_index("seed").parts
    assert not set(one.blobs) & set(two.blobs)
    assert not set(one.blobs) & set(build_image("other").blobs)


def test_every_blob_is_what_its_digest_says_and_is_named() -> None:
    index = build_index("seed")
    assert all(digest.matches(content) for digest, content in index.blobs.items())
    assert contents_by_kind(index).keys() == index.blobs.keys()
    for digest, kind in contents_by_kind(index).items():
        if kind in (Kind.INDEX, Kind.MANIFEST):
            assert parse_manifest(index.blobs[digest]).kind is kind


def test_a_layout_holds_what_was_added(tmp_path: Path) -> None:
    image = build_image("seed")
    layout = Layout(tmp_path)
    layout.add("docker.io/library/a:1", image)
    children = parse_layout_index((tmp_path / "index.json").read_bytes()).children
    assert [(child.tag, child.descriptor) for child in children] == [("docker.io/library/a:1", image.descriptor)]
    assert all(layout.path(digest).read_bytes() == content for digest, content in image.blobs.items())
    layout.remove("docker.io/library/a:1")
    assert parse_layout_index((tmp_path / "index.json").read_bytes()).children == ()
