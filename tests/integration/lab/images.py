"""Images for the tests: random ones of any shape, and a real one made of a Debian root file system.

Blobs lie in a Pool, a directory with a file per digest; registries link them into their storage.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import platform
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
FOREIGN = "arm64" if ARCHITECTURE == "amd64" else "amd64"
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of the pool, as a descriptor names it."""

    digest: str
    media_type: str
    size: int
    path: Path

    def descriptor(self, **more: object) -> dict[str, object]:
        """The descriptor in JSON's terms."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **more}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer, and the digest of its tar file before compression (its diff id)."""

    blob: Blob
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image: `top` is what its tag leads to; the rest is sorted by what a node of this platform pulls."""

    top: Blob
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    foreign: tuple[Blob, ...] = ()  # manifests, configs and layers of other platforms

    @property
    def manifests(self) -> tuple[Blob, ...]:
        """The index, where there is one, and this platform's manifest."""
        return (self.top,) if self.top == self.manifest else (self.top, self.manifest)

    @property
    def pulled(self) -> tuple[Blob, ...]:
        """What a node holds after it pulled the image."""
        return (*self.manifests, self.config, *self.layers)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that the registry holds."""
        return (*self.pulled, *self.foreign)


class Pool:
    """A directory of blobs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, content: bytes, media_type: str) -> Blob:
        """Put bytes into the pool."""
        encoded = hashlib.sha256(content).hexdigest()
        path = self.directory / encoded
        if not path.exists():
            path.write_bytes(content)
        return Blob(f"sha256:{encoded}", media_type, len(content), path)

    def add_json(self, value: dict[str, object], media_type: str) -> Blob:
        """Put a JSON document into the pool."""
        return self.add(json.dumps(value, sort_keys=True).encode(), media_type)

    def add_zeros(self, size: int, media_type: str) -> Blob:
        """A file of zeros that takes no space on the disk."""
        hasher, zeros, left = hashlib.sha256(), bytes(CHUNK), size
        while left:
            hasher.update(zeros[:left])
            left -= min(left, CHUNK)
        path = self.directory / hasher.hexdigest()
        with path.open("wb") as file:
            file.truncate(size)
        return Blob(f"sha256:{path.name}", media_type, size, path)

    def layer(self, tar: bytes, compression: str = "gzip") -> Layer:
        """A layer of a tar file; `compression` is gzip, zstd or none."""
        diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
        match compression:
            case "gzip":
                return Layer(self.add(gzip.compress(tar, 1, mtime=0), f"{LAYER}+gzip"), diff_id)
            case "zstd":
                return Layer(self.add(zstandard.ZstdCompressor().compress(tar), f"{LAYER}+zstd"), diff_id)
            case "none":
                return Layer(self.add(tar, LAYER), diff_id)
        raise ValueError(compression)

    def image(self, layers: Sequence[Layer], *, foreign: Sequence[Layer] = (), index: bool = True) -> Image:
        """An image of these layers; an index that names a foreign platform too where `foreign` has layers."""
        config, manifest = self._platform(layers, ARCHITECTURE)
        blobs = tuple(layer.blob for layer in layers)
        if not index:
            return Image(manifest, manifest, config, blobs)
        other = self._platform(foreign, FOREIGN) if foreign else ()
        entries = [manifest.descriptor(platform={"architecture": ARCHITECTURE, "os": "linux"})]
        if other:
            # The foreign platform first: who takes the first entry takes the wrong one.
            entries.insert(0, other[1].descriptor(platform={"architecture": FOREIGN, "os": "linux"}))
        top = self.add_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX)
        return Image(top, manifest, config, blobs, (*other, *(layer.blob for layer in foreign)))

    def _platform(self, layers: Sequence[Layer], architecture: str) -> tuple[Blob, Blob]:
        """The config and the manifest of one platform."""
        root = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        run = {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"]}
        config = self.add_json({"architecture": architecture, "os": "linux", "config": run, "rootfs": root}, CONFIG)
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.blob.descriptor() for layer in layers],
        }
        return config, self.add_json(manifest, MANIFEST)

    def docker_image(self, layers: Sequence[Layer]) -> Image:
        """The same in Docker's media types (schema 2), without an index; the layers must be gzip."""
        image = self.image(layers, index=False)
        blobs = tuple(Blob(layer.digest, DOCKER_LAYER, layer.size, layer.path) for layer in image.layers)
        config = Blob(image.config.digest, DOCKER_CONFIG, image.config.size, image.config.path)
        parts = {"config": config.descriptor(), "layers": [layer.descriptor() for layer in blobs]}
        manifest = self.add_json({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, **parts}, DOCKER_MANIFEST)
        return Image(manifest, manifest, config, blobs)

    def random_layer(self, name: str, size: int, compression: str = "gzip") -> Layer:
        """A layer with one file of incompressible bytes; the same name and size give the same layer."""
        return self.layer(tar_of({f"opt/{name}": random.Random(name).randbytes(size)}), compression)

    def random_image(
        self, name: str, layers: int = 3, size: int = 64 * 1024, *, foreign: bool = False, compression: str = "gzip"
    ) -> Image:
        """A small image: `layers` layers of `size` incompressible bytes each."""
        made = [self.random_layer(f"{name}-{number}", size, compression) for number in range(layers)]
        others = [self.random_layer(f"{name}-{FOREIGN}", size, compression)] if foreign else []
        return self.image(made, foreign=others)

    def debian_image(self, root_file_system: Path, layers: int = 6) -> Image:
        """A Debian root file system as a multi-platform image, its layers by turns in gzip and zstd."""
        tars = split_tar(root_file_system, layers)
        made = [self.layer(tar, "zstd" if number % 2 else "gzip") for number, tar in enumerate(tars)]
        return self.image(made, foreign=[self.random_layer(f"debian-{FOREIGN}", CHUNK)])


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar file with these files; always the same bytes for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def split_tar(path: Path, parts: int) -> list[bytes]:
    """Cut a tar file into tar files of about the same size; each brings the directories that its files need.

    Device nodes are left out: unpacking them needs more rights than the tests may have.
    """
    outputs = [io.BytesIO() for _ in range(parts)]
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(tarfile.open(path))
        members = [member for member in source if not member.isdev()]
        directories = {member.name.rstrip("/"): member for member in members if member.isdir()}
        share = sum(member.size for member in members) // parts + 1
        tars = [
            stack.enter_context(tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)) for out in outputs
        ]
        written: list[set[str]] = [set() for _ in range(parts)]
        done = 0
        for member in members:
            number = done // share
            done += member.size
            names = member.name.rstrip("/").split("/")
            for parent in ("/".join(names[:depth]) for depth in range(1, len(names))):
                if parent in directories and parent not in written[number]:
                    tars[number].addfile(directories[parent])
                    written[number].add(parent)
            written[number].add(member.name.rstrip("/"))
            tars[number].addfile(member, source.extractfile(member) if member.isreg() else None)
    return [out.getvalue() for out in outputs]
