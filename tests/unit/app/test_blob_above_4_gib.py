"""A blob above 4 GiB, a sparse file, through the registry endpoint: its length and ranges, here and from a peer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peili.demo.images import Layout, describe
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.media_types import OCI_MANIFEST
from peili.registry.record import ByteSource
from peili.routing.memory import MemoryNetwork
from tests.fakes.nodes import running_node

NAME = "registry.example/models/large:1"
SIZE = 2**32 + 4097
EDGE = 2**32  # where 32 bits end
MARKS = {0: b"begin", EDGE - 2: b"edge", SIZE - 3: b"end"}
LARGE = Descriptor(Digest.of(b"stands for a sparse file"), "application/vnd.oci.image.layer.v1.tar", SIZE)
TARGET = f"/v2/models/large/blobs/{LARGE.digest}?ns=registry.example"


def write(layout: Layout) -> None:
    with layout.path(LARGE.digest).open("wb") as file:
        file.truncate(SIZE)
        for offset, mark in MARKS.items():
            os.pwrite(file.fileno(), mark, offset)
    config = Descriptor(layout.write_blob(b"{}"), "application/vnd.oci.image.config.v1+json", 2)
    manifest = json.dumps({"mediaType": OCI_MANIFEST, "config": describe(config), "layers": [describe(LARGE)]})
    layout.name(NAME, Descriptor(layout.write_blob(manifest.encode()), OCI_MANIFEST, len(manifest)))


@pytest.mark.parametrize("asked", ["the holder", "another node"])
async def test_a_blob_above_4_gib_has_its_length_and_every_range(tmp_path: Path, asked: str) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as holder, running_node(network, tmp_path / "2") as other:
        write(holder.layout)
        await holder.wait_offered(Key(str(LARGE.digest)))
        node = holder if asked == "the holder" else other
        head = await node.get(TARGET, "HEAD")
        assert (head.status, head.headers.get("Content-Length"), head.body) == (200, str(SIZE), b"")
        assert head.headers.get("Docker-Content-Digest") == str(LARGE.digest)
        assert head.headers.get("Accept-Ranges") == "bytes"
        rest = bytes(SIZE - EDGE - 5) + b"end"
        for wanted, start, body in (
            (f"bytes={EDGE - 2}-{EDGE + 1}", EDGE - 2, b"edge"),
            (f"bytes={EDGE + 2}-", EDGE + 2, rest),
            (f"bytes={SIZE - 3}-{2 * SIZE}", SIZE - 3, b"end"),
            ("bytes=-3", SIZE - 3, b"end"),
        ):
            answer = await node.get(TARGET, Range=wanted)
            part = f"bytes {start}-{start + len(body) - 1}/{SIZE}"
            assert (answer.status, answer.headers.get("Content-Range")) == (206, part), wanted
            assert answer.headers.get("Content-Length") == str(len(body))
            assert answer.body == body, wanted
        beyond = await node.get(TARGET, Range=f"bytes={SIZE}-")
        assert (beyond.status, beyond.headers.get("Content-Range")) == (416, f"bytes */{SIZE}")
        begin = await node.get(TARGET, Range="bytes=0-4")
        assert begin.body == b"begin"
        records = await node.records(7)
    assert {record.status for record in records} == {200, 206, 416}
    source = ByteSource.LOCAL if asked == "the holder" else ByteSource.PEER
    assert {record.source for record in records if record.status == 206} == {source}
