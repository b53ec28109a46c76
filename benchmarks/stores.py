"""Content for nodes without containerd: OCI image layouts with fresh random images, written fast."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REGISTRY = "registry.bench:5000"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_PIECE = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Content:
    """A blob of a layout, and the path below /v2/ under which a client asks for it."""

    digest: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of a layout."""

    name: str
    manifest: Content
    config: Content
    layers: tuple[Content, ...]

    @property
    def keys(self) -> int:
        """The keys that a node with it provides: its tag and its digests."""
        return 3 + len(self.layers)


@dataclass(slots=True)
class Store:
    """A layout directory; `close` it to write its index."""

    directory: Path
    images: list[Stored] = field(default_factory=list)
    _manifests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.directory / "blobs/sha256").mkdir(parents=True)
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    @property
    def layers(self) -> list[Content]:
        """The layers of all images."""
        return [layer for image in self.images for layer in image.layers]

    def add(self, repository: str, sizes: Sequence[int], *, importable: bool = False) -> Stored:
        """Write an image whose layers have these sizes; `importable` ones are tar files that containerd unpacks."""
        layers = [self._tar(size) if importable else self._random(size) for size in sizes]
        return self._image(repository, layers)

    def add_hollow(self, repository: str, sizes: Sequence[int]) -> Stored:
        """Write an image of layers that take no space: files of zeros under digests that are none of theirs.

        For clients that throw away what they read: every one can have a blob of its own, as containerd never asks
        for one twice at a time.
        """
        return self._image(repository, [self._hollow(size) for size in sizes])

    def adopt(self, other: Store, image: Stored) -> None:
        """Hold another store's image as well; its files are linked."""
        for content in (image.manifest, image.config, *image.layers):
            os.link(other.path(content.digest), self.path(content.digest))
        self._name(image.name, image.manifest)
        self.images.append(image)

    def close(self) -> None:
        """Write index.json."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._manifests}
        partial = self.directory / ".index.json.partial"
        partial.write_text(json.dumps(index))
        partial.replace(self.directory / "index.json")

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.directory / "blobs" / digest.replace(":", "/")

    def _image(self, repository: str, layers: Sequence[tuple[str, int]]) -> Stored:
        root = {"type": "layers", "diff_ids": [digest for digest, _ in layers]}
        config = self._json({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root})
        described = [{"mediaType": LAYER, "digest": digest, "size": size} for digest, size in layers]
        fields = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config[0], "size": config[1]},
            "layers": described,
        }
        manifest = self._json(fields)
        stored = Stored(
            f"{REGISTRY}/{repository}:1",
            Content(*manifest, f"{repository}/manifests/{manifest[0]}"),
            Content(*config, f"{repository}/blobs/{config[0]}"),
            tuple(Content(digest, size, f"{repository}/blobs/{digest}") for digest, size in layers),
        )
        self._name(stored.name, stored.manifest)
        self.images.append(stored)
        return stored

    def _name(self, name: str, manifest: Content) -> None:
        self._manifests.append(
            {
                "mediaType": MANIFEST,
                "digest": manifest.digest,
                "size": manifest.size,
                "annotations": {"io.containerd.image.name": name},
            }
        )

    def _json(self, value: object) -> tuple[str, int]:
        content = json.dumps(value).encode()
        return self._write(content), len(content)

    def _write(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.path(digest).write_bytes(content)
        return digest

    def _random(self, size: int) -> tuple[str, int]:
        if size <= _PIECE:
            return self._write(os.urandom(size)), size
        partial = self.directory / ".partial"
        digest = write_pieces(partial, random_pieces(size))
        partial.rename(self.path(digest))
        return digest, size

    def _hollow(self, size: int) -> tuple[str, int]:
        digest = f"sha256:{os.urandom(32).hex()}"
        self.path(digest).touch()
        os.truncate(self.path(digest), size)
        return digest, size

    def _tar(self, size: int) -> tuple[str, int]:
        partial = self.directory / ".partial"
        digest, whole = write_tar(partial, size)
        partial.rename(self.path(digest))
        return digest, whole


def random_pieces(size: int) -> Iterator[bytes]:
    """So many bytes that nothing makes smaller."""
    while size:
        piece = os.urandom(min(size, _PIECE))
        size -= len(piece)
        yield piece


def write_pieces(path: Path, pieces: Iterator[bytes]) -> str:
    """Write a file and return its digest."""
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            hasher.update(piece)
            file.write(piece)
    return f"sha256:{hasher.hexdigest()}"


def write_tar(path: Path, size: int) -> tuple[str, int]:
    """Write a tar file with one file of random bytes; return its digest and its own size."""
    member = tarfile.TarInfo(f"opt/{os.urandom(8).hex()}")
    member.size, member.mode = size, 0o644
    head = member.tobuf(tarfile.PAX_FORMAT)
    tail = bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)

    def pieces() -> Iterator[bytes]:
        yield head
        yield from random_pieces(size)
        yield tail

    return write_pieces(path, pieces()), len(head) + size + len(tail)


def digest_of(path: Path) -> str:
    """The digest of a file as it lies there."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
