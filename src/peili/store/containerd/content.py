"""containerd's content directory: where it is, and which of the listed blobs can be read there.

Layout: `<root>/blobs/<algorithm>/<hex>`, regular files that appear by rename when they are complete and verified
(containerd's docs/content-flow.md). The calls here block for microseconds each; walk whole lists in a thread.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from peili.containerd.client import Client, ContentRecord, Plugin
from peili.oci.digest import Digest, InvalidDigest
from peili.store.files import blob_name, read_manifest
from peili.store.index import Evidence, Unread
from peili.store.inotify import CannotWatch, Mask, Watcher
from peili.store.manifests import Manifest
from peili.store.protocol import NotInStore, StoreError

DEFAULT_ROOT = Path("/var/lib/containerd/io.containerd.content.v1.content")
ALGORITHMS = ("sha256", "sha384", "sha512")
MAXIMUM_PRESENT = 100  # files of a directory that has just appeared
_COMMITTED_OR_GONE = (
    Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CREATE | Mask.DELETE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
)


async def discover_root(client: Client, given: Path | None) -> Path:
    """The content directory: the given one, what containerd exports, or its default. Raise StoreError."""
    if given is not None:
        root, source = given, "--containerd-content-path names"
    else:
        exported = exported_root(await client.plugins(["type==io.containerd.content.v1"]))
        root, source = (
            (exported, "containerd names") if exported is not None else (DEFAULT_ROOT, "is containerd's default")
        )
    unreadable = f"the content directory {root} cannot be read: run Peili as root, as containerd does"
    try:
        there = stat.S_ISDIR(root.stat().st_mode)
    except PermissionError as error:  # a directory above it is closed
        raise StoreError(unreadable) from error
    except OSError:
        there = False
    if not there and not root.parent.is_dir():  # containerd 1.7 and newer create it with the first blob
        raise StoreError(
            f"the content directory {root} ({source} it) is not here: mount it at this path, or say where it is "
            "with --containerd-content-path"
        )
    if there and not os.access(root, os.R_OK | os.X_OK):
        raise StoreError(unreadable)
    return root


def exported_root(plugins: Iterable[Plugin]) -> Path | None:
    """The `root` that containerd's own content plugin exports, if it does."""
    for plugin in plugins:
        root = plugin.exports.get("root", "")
        if plugin.type == "io.containerd.content.v1" and plugin.id == "content" and root.startswith("/"):
            return Path(root)
    return None


def readable_size(root: Path, digest: Digest) -> int | None:
    """The length in bytes of a blob's file; None where it is missing or cannot be read."""
    path = blob_name(root, digest)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.R_OK):
        return None
    return found.st_size


def readable_content(root: Path, listed: Iterable[ContentRecord]) -> dict[Digest, tuple[int, Evidence]]:
    """Of the listed blobs, those whose file can be read and has the listed size. Blocks: call it in a thread."""
    readable = {}
    for record in listed:
        try:
            digest = Digest.parse(record.digest)
        except InvalidDigest:
            continue
        if readable_size(root, digest) == record.size:
            readable[digest] = (record.size, Evidence.VERIFIED)
    return readable


def read_manifests(root: Path, items: Sequence[Unread]) -> list[tuple[Unread, Manifest | NotInStore | None]]:
    """Read what the index asks for; each with what came of it. Blocks: call it in a thread."""
    read: list[tuple[Unread, Manifest | NotInStore | None]] = []
    for item in items:
        try:
            read.append((item, read_manifest(blob_name(root, item.digest), item)))
        except NotInStore as error:
            read.append((item, error))
    return read


def watch_content(watcher: Watcher, root: Path) -> dict[int, str]:
    """Watch the directories that are there: watch number -> algorithm, empty for those above. Raise CannotWatch.

    A fresh containerd makes these directories with its first blob: each one's parent, watched before it is looked
    for, says when it comes.
    """
    watched = {}
    above = [(directory, "") for directory in (root.parent, root, root / "blobs")]
    for directory, algorithm in [*above, *((root / "blobs" / algorithm, algorithm) for algorithm in ALGORITHMS)]:
        try:
            watched[watcher.add(directory, _COMMITTED_OR_GONE)] = algorithm
        except CannotWatch:
            if directory.is_dir():
                raise
    return watched


def present_digests(root: Path, algorithm: str) -> list[Digest]:
    """What has a file in `blobs/<algorithm>`, a bounded number of them; a walk finds the rest."""
    try:
        with os.scandir(root / "blobs" / algorithm) as entries:
            names = [entry.name for entry in itertools.islice(entries, MAXIMUM_PRESENT)]
    except OSError:
        return []
    return [digest for name in names if (digest := changed_digest(algorithm, name)) is not None]


def changed_digest(algorithm: str, name: str) -> Digest | None:
    """The digest of a file's name in `blobs/<algorithm>`, or None."""
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except InvalidDigest:
        return None
