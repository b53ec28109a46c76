"""Content that a store is receiving, driven step by step by a test."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Protocol

from peili.demo.images import random_bytes
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest

MEBIBYTE = 1024 * 1024  # containerd writes in such pieces
LAYER = "application/vnd.oci.image.layer.v1.tar"


def layer_of(seed: str, size: int) -> tuple[Descriptor, bytes]:
    """A layer's descriptor and bytes."""
    content = random_bytes(seed, size)
    return Descriptor(Digest.of(content), LAYER, size), content


class Incoming(Protocol):
    """One layer on its way into a store. It was begun: no byte is there yet, its total may take a moment."""

    descriptor: Descriptor
    content: bytes

    async def arrive(self, count: int) -> None:
        """Let the first `count` bytes come, a multiple of MEBIBYTE; whoever looks may have to wait for them."""
        ...

    async def finish(self) -> None:
        """Let the rest come, and wait for the commit."""
        ...

    async def fail(self) -> None:
        """The pull fails, and what was received is deleted."""
        ...

    async def kill(self) -> None:
        """The receiver is killed: what was received is left over."""
        ...


class FileIncoming:
    """Writes the files of an ingest as containerd's content store does, in any namespace."""

    def __init__(
        self, root: Path, namespace: str, descriptor: Descriptor, content: bytes, kind: str = "layer"
    ) -> None:
        self.descriptor = descriptor
        self.content = content
        reference = f"{namespace}/1/{kind}-{descriptor.digest}"
        self.directory = root / "ingest" / hashlib.sha256(reference.encode()).hexdigest()
        self._target = root / "blobs" / descriptor.digest.algorithm / descriptor.digest.hex
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "ref").write_text(reference)
        (self.directory / "total").write_text(str(descriptor.size))
        self._file = (self.directory / "data").open("ab", buffering=0)

    async def arrive(self, count: int) -> None:
        self.write_to(count)

    def write_to(self, count: int) -> None:
        """Append up to `count` bytes in all."""
        self._file.write(self.content[self._file.tell() : count])

    async def finish(self) -> None:
        self.write_to(len(self.content))
        self._file.close()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        (self.directory / "data").rename(self._target)
        shutil.rmtree(self.directory)

    async def fail(self) -> None:
        shutil.rmtree(self.directory)
        self._file.close()

    async def kill(self) -> None:
        self.close()

    def close(self) -> None:
        """Write no more; again does nothing."""
        self._file.close()
