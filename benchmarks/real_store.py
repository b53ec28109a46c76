"""A node whose store is a real containerd, where root is there: gRPC weighs, and layouts do not tell."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.stores import Store
from tests.integration.lab.containerd import NAMESPACE, Containerd
from tests.integration.lab.laboratory import Lab

IMPORT_TIMEOUT = 600.0  # seconds


@contextmanager
def containerd(bench: Bench) -> Iterator[Containerd | None]:
    """A running containerd, or None without root: sockets in the file system are the same in every network."""
    if os.geteuid() != 0:
        bench.say("not root: a layout instead of a containerd's store, without gRPC and its memory")
        yield None
        return
    with Lab() as lab:
        [node] = lab.containerds([bench.suite])
        yield node.containerd


def options(found: Containerd) -> str:
    """What `peili run` needs to know of it."""
    return f"--store=containerd --containerd-socket={found.socket} --containerd-namespace={NAMESPACE}"


def import_store(found: Containerd, store: Store) -> None:
    """Give containerd all images of a layout, not unpacked."""
    store.close()
    archive = store.directory.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for path in sorted(store.directory.rglob("*")):
            tar.add(path, str(path.relative_to(store.directory)), recursive=False)
    try:
        found.ctr("images", "import", "--no-unpack", str(archive), timeout=IMPORT_TIMEOUT)
    finally:
        archive.unlink()


def blobs(found: Containerd) -> list[Path]:
    """The files of its content store."""
    return list((found.content / "blobs/sha256").iterdir())
