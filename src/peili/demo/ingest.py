"""Writing a blob into an OCI layout as containerd writes one into its content store, so that peers can follow it.

The form on disk is that of peili.store.growing: first `ref` and `total`, then `data`, which grows by appending in
pieces of PIECE bytes as containerd's does, and is renamed into blobs/ when its digest is right. It blocks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from peili.oci.descriptor import Descriptor
from peili.store.files import blob_path
from peili.store.growing import LAYOUT_NAMESPACE, ingest_directory, ingest_reference
from peili.store.manifests import kind_of
from peili.store.protocol import Kind

PIECE = 1024 * 1024  # containerd reads so much before it writes (content.Copy; seen on 1.6, 1.7 and 2.1)


class WrongDigest(Exception):
    """What was received is not what the digest names."""


class Ingest:
    """A blob that is being written; one writer at a time. A leftover of the same blob is gone on with.

    `offset`: how many bytes were given so far, which is where the next request begins.
    """

    def __init__(self, layout: Path, descriptor: Descriptor) -> None:
        name = _key_kind(descriptor.media_type)
        self._directory = ingest_directory(layout, LAYOUT_NAMESPACE, name, descriptor.digest)
        self._target = blob_path(layout, descriptor.digest)
        self._descriptor = descriptor
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "ref").write_text(ingest_reference(LAYOUT_NAMESPACE, name, descriptor.digest))
        (self._directory / "total").write_text(str(descriptor.size))
        self._file = (self._directory / "data").open("ab", buffering=0)
        self._pending = bytearray()
        self.offset = os.fstat(self._file.fileno()).st_size

    @property
    def data(self) -> Path:
        """The file that grows."""
        return self._directory / "data"

    def write(self, content: bytes) -> None:
        """Append bytes; they reach the file in whole pieces, the last ones when the blob is whole."""
        self._pending += content
        self.offset += len(content)
        whole = len(self._pending) // PIECE * PIECE
        self._append(len(self._pending) if self.offset == self._descriptor.size else whole)

    def commit(self) -> None:
        """Check the digest and rename; raise WrongDigest, which leaves the ingest as it is."""
        with self.data.open("rb") as file:
            found = hashlib.file_digest(file, self._descriptor.digest.algorithm).hexdigest()
        if found != self._descriptor.digest.hex:
            raise WrongDigest(f"unexpected commit digest {found} for {self._descriptor.digest}")
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self.data.rename(self._target)
        self.abort()

    def abort(self) -> None:
        """Delete what is there; after a commit only what is left around it. Again does nothing."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        """Write no more; a leftover stays, as when the writer was killed."""
        self._file.close()

    def _append(self, count: int) -> None:
        piece = memoryview(bytes(self._pending[:count]))
        del self._pending[:count]
        while piece:
            piece = piece[self._file.write(piece) :]


def _key_kind(media_type: str) -> str:
    """What containerd's key begins with (core/remotes/handlers.go, MakeRefKey)."""
    kind = kind_of(media_type)
    if kind is not Kind.UNKNOWN:
        return str(kind)
    return next((name for name in ("layer", "config") if f".{name}." in media_type), "unknown")
