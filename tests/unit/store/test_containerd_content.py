from __future__ import annotations

import os
from pathlib import Path

import pytest

from peili.containerd.client import ContentRecord, ImageRecord, Plugin
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.media_types import OCI_INDEX, OCTET_STREAM
from peili.store.containerd.content import (
    changed_digest,
    exported_root,
    readable_content,
    readable_size,
    watch_content,
)
from peili.store.containerd.session import image_target
from peili.store.files import blob_path
from peili.store.index import Evidence
from peili.store.inotify import CannotWatch, Inotify

ONE = Digest.of(b"one")


def write(root: Path, content: bytes) -> Digest:
    digest = Digest.of(content)
    path = blob_path(root, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


def test_only_listed_content_of_the_listed_size_is_readable(tmp_path: Path) -> None:
    good, cut, unlisted = (write(tmp_path, content) for content in (b"good", b"cut off", b"unlisted"))
    listed = [
        ContentRecord(str(good), 4),
        ContentRecord(str(cut), 8),
        ContentRecord(str(ONE), 3),
        ContentRecord("sha256:short", 3),
        ContentRecord("", -1),
        ContentRecord("md5:../../../etc/passwd", 1),
    ]
    assert readable_content(tmp_path, listed) == {good: (4, Evidence.VERIFIED)}
    assert readable_size(tmp_path, unlisted) == 8


def test_what_is_not_a_regular_file_is_not_readable(tmp_path: Path) -> None:
    digest = write(tmp_path, b"target")
    path = blob_path(tmp_path, ONE)
    path.symlink_to(blob_path(tmp_path, digest))
    assert readable_size(tmp_path, ONE) is None
    path.unlink()
    os.mkfifo(path)
    assert readable_size(tmp_path, ONE) is None
    path.unlink()
    path.mkdir()
    assert readable_size(tmp_path, ONE) is None


@pytest.mark.parametrize(
    ("plugin", "root"),
    [
        (Plugin("io.containerd.content.v1", "content", {"root": "/data/content"}, ""), Path("/data/content")),
        (Plugin("io.containerd.content.v1", "content", {}, ""), None),
        (Plugin("io.containerd.content.v1", "content", {"root": "relative"}, ""), None),
        (Plugin("io.containerd.content.v1", "proxy", {"root": "/elsewhere"}, ""), None),
        (Plugin("io.containerd.snapshotter.v1", "content", {"root": "/elsewhere"}, ""), None),
    ],
)
def test_the_root_is_what_the_content_plugin_exports(plugin: Plugin, root: Path | None) -> None:
    other = Plugin("io.containerd.metadata.v1", "bolt", {"root": "/bolt"}, "")
    assert exported_root([other, plugin]) == root


def test_names_in_a_directory_are_digests_or_nothing() -> None:
    assert changed_digest("sha256", ONE.hex) == ONE
    assert changed_digest("sha256", "") is None
    assert changed_digest("sha256", ONE.hex.upper()) is None
    assert changed_digest("sha512", ONE.hex) is None


async def test_directories_that_are_not_there_yet_are_watched_through_their_parents(tmp_path: Path) -> None:
    root = tmp_path / "containerd" / "content"
    root.parent.mkdir()
    with Inotify() as watcher:
        assert list(watch_content(watcher, root).values()) == [""]
        blob_path(root, ONE).parent.mkdir(parents=True)
        assert list(watch_content(watcher, root).values()) == ["", "", "", "sha256"]


async def test_a_directory_that_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    class Full(Inotify):
        def add(self, directory: Path, mask: object = None) -> int:
            raise CannotWatch("no inotify watch left")

    with Full() as watcher, pytest.raises(CannotWatch):
        watch_content(watcher, tmp_path)


@pytest.mark.parametrize(
    ("record", "target"),
    [
        (ImageRecord("a", OCI_INDEX, str(ONE), 3), Descriptor(ONE, OCI_INDEX, 3)),
        (ImageRecord("a", "text/html\r\nX: y", str(ONE), 3), Descriptor(ONE, OCTET_STREAM, 3)),
        (ImageRecord("a", "", str(ONE), 3), Descriptor(ONE, OCTET_STREAM, 3)),
        (ImageRecord("a", OCI_INDEX, str(ONE), -1), None),
        (ImageRecord("a", OCI_INDEX, "", 3), None),
    ],
)
def test_image_records_may_hold_anything(record: ImageRecord, target: Descriptor | None) -> None:
    assert image_target(record) == target
