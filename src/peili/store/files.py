"""Reading a store's files: opening a blob, reading a manifest. These block: call `read_manifest` in a thread."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.store.index import Unread
from peili.store.manifests import InvalidManifest, Manifest, parse_manifest
from peili.store.protocol import Blob, Kind, NotInStore

# A symbolic link could lead out of the store, and a FIFO would make the opening wait.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def blob_path(root: Path, digest: Digest) -> Path:
    """Where a blob's file is when it is committed, in containerd's content directory and in an OCI layout."""
    return Path(blob_name(root, digest))


def blob_name(root: Path, digest: Digest) -> str:
    """The same as a text, for walks and requests: to make a Path takes longer than to ask the file system."""
    return f"{root}/blobs/{digest.algorithm}/{digest.hex}"


def open_blob(path: Path | str, descriptor: Descriptor) -> Blob:
    """Open the file of a blob; raise NotInStore unless it is a readable regular file of the descriptor's size.

    Takes microseconds (no content is read), so it may be called on the event loop for a local file system.
    """
    try:
        fileno = os.open(path, _FLAGS)
    except OSError as error:
        raise NotInStore(f"cannot open {descriptor.digest}: {error.strerror}") from error
    blob = Blob(descriptor, fileno)
    found = os.fstat(fileno)
    if not stat.S_ISREG(found.st_mode) or found.st_size != descriptor.size:
        blob.close()
        raise NotInStore(f"{descriptor.digest} is not a file of {descriptor.size} bytes")
    return blob


def read_manifest(path: Path | str, item: Unread) -> Manifest | None:
    """Read and check what the index asks for; None where it is whole but no manifest. Raise NotInStore otherwise.

    Content of unknown kind that does not begin like JSON is not read any further, nor is its digest checked.
    """
    with open_blob(path, Descriptor(item.digest, "", item.size)) as blob:
        try:
            if item.kind is Kind.UNKNOWN and not os.pread(blob.fileno, 64, 0).lstrip().startswith(b"{"):
                return None
            content = _read(blob)
        except OSError as error:
            raise NotInStore(f"cannot read {item.digest}: {error.strerror}") from error
    if not item.digest.matches(content):
        raise NotInStore(f"the bytes of {item.digest} have another digest")
    try:
        return parse_manifest(content)
    except InvalidManifest:
        return None


def _read(blob: Blob) -> bytes:
    """The whole of a small blob; one read may give less than was asked for."""
    content = bytearray()
    while len(content) < blob.size:
        part = os.pread(blob.fileno, blob.size - len(content), len(content))
        if not part:
            break
        content += part
    return bytes(content)
