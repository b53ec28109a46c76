"""Small real images, the same on every run: layers, configs, manifests, indexes, and OCI layouts to keep them in.

The demo and the tests pull these. Their layers hold bytes that look random, so that sizes on the wire are what they
seem, and everything is valid: containerd can import and unpack them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import trio

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from peili.store.manifests import kind_of
from peili.store.protocol import Kind

CONTAINERD_NAME = "io.containerd.image.name"
OCI_NAME = "org.opencontainers.image.ref.name"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ZSTD_BLOCK = 128 * 1024  # Block_Maximum_Size, RFC 8878, section 3.1.1.2.4


class Compression(StrEnum):
    """How a layer's tar is packed; the value is what its media type ends with."""

    GZIP = "+gzip"
    ZSTD = "+zstd"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one platform (with `config` and `layers`) or an index (with `parts`); `blobs` in pull order."""

    descriptor: Descriptor
    platform: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    parts: tuple[Image, ...] = ()
    blobs: Mapping[Digest, bytes] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """The sum of all its blobs, in bytes."""
        return sum(map(len, self.blobs.values()))


def random_bytes(seed: str, count: int) -> bytes:
    """Bytes that look random and follow from the seed."""
    return hashlib.shake_256(seed.encode()).digest(count)


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of these files, without times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def compress(content: bytes, compression: Compression) -> bytes:
    """Pack a layer; what is random does not get smaller, so both formats store it as it is."""
    match compression:
        case Compression.GZIP:
            return gzip.compress(content, compresslevel=0, mtime=0)
        case Compression.ZSTD:
            return _zstd(content)
        case Compression.NONE:
            return content


def build_image(
    seed: str,
    *,
    layer_sizes: Sequence[int] = (20_000, 5_000),
    compression: Compression = Compression.GZIP,
    platform: str = "linux/amd64",
    empty_layer: bool = False,
) -> Image:
    """An image of one platform with layers of about these sizes in bytes; another seed gives other content.

    `empty_layer` adds a layer of no bytes at all, as no builder should and some do.
    """
    layers: list[Descriptor] = []
    diff_ids: list[str] = []
    packed: dict[Digest, bytes] = {}
    for number, size in enumerate(layer_sizes):
        tar = tar_of({f"layer-{number}.bin": random_bytes(f"{seed} {platform} {number}", size)})
        diff_ids.append(str(Digest.of(tar)))
        layers.append(_add(packed, compress(tar, compression), _LAYER + compression))
    if empty_layer:
        diff_ids.append(str(Digest.of(b"")))
        layers.append(_add(packed, b"", _LAYER))
    fields = {
        **_platform(platform),
        "config": {"Cmd": ["/layer-0.bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    blobs: dict[Digest, bytes] = {}
    config = _add(blobs, _json(fields), OCI_CONFIG)
    manifest = manifest_of(config, layers)
    descriptor = Descriptor(Digest.of(manifest), OCI_MANIFEST, len(manifest))
    return Image(descriptor, platform, config, tuple(layers), (), {descriptor.digest: manifest, **blobs, **packed})


def build_index(
    seed: str,
    *,
    platforms: Sequence[str] = ("linux/amd64", "linux/arm64/v8"),
    layer_sizes: Sequence[int] = (20_000, 5_000),
    compression: Compression = Compression.GZIP,
) -> Image:
    """An index with an image for each platform."""
    parts = tuple(
        build_image(seed, layer_sizes=layer_sizes, compression=compression, platform=platform)
        for platform in platforms
    )
    return index_of(parts)


def manifest_of(config: Descriptor, layers: Sequence[Descriptor], *, media_type: str = OCI_MANIFEST) -> bytes:
    """The bytes of a manifest; an empty media type leaves that field out."""
    fields = {"schemaVersion": 2, "mediaType": media_type, "config": describe(config)}
    return _json({name: value for name, value in fields.items() if value} | {"layers": list(map(describe, layers))})


def index_of(parts: Sequence[Image], *, media_type: str = OCI_INDEX) -> Image:
    """An index of these images; an empty media type leaves that field out."""
    manifests = [describe(part.descriptor) | {"platform": _platform(part.platform)} for part in parts]
    fields = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    content = _json({name: value for name, value in fields.items() if value != ""})
    descriptor = Descriptor(Digest.of(content), media_type or OCI_INDEX, len(content))
    blobs = {descriptor.digest: content}
    for part in parts:
        blobs |= part.blobs
    return Image(descriptor, parts=tuple(parts), blobs=blobs)


def describe(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor as JSON writes it (image-spec, descriptor.md)."""
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


class Layout:
    """An OCI image layout directory that images are written to (image-spec, image-layout.md). It blocks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._images: dict[str, tuple[Descriptor, str]] = {}
        self._locks: dict[Digest, trio.Lock] = {}
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.write_index()

    def path(self, digest: Digest) -> Path:
        """Where a blob lies."""
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def lock(self, digest: Digest) -> trio.Lock:
        """Held by whoever writes this blob piece by piece."""
        return self._locks.setdefault(digest, trio.Lock())

    def add(
        self, name: str, image: Image, *, without: Collection[Digest] = (), annotation: str = CONTAINERD_NAME
    ) -> None:
        """Write an image's blobs but for those in `without`, then its name; again moves the name."""
        for digest, content in image.blobs.items():
            if digest not in without:
                self.write_blob(content, digest)
        self.name(name, image.descriptor, annotation=annotation)

    def name(self, name: str, target: Descriptor, *, annotation: str = CONTAINERD_NAME) -> None:
        """Let this name lead there."""
        self._images[name] = (target, annotation)
        self.write_index()

    def write_blob(self, content: bytes, digest: Digest | None = None) -> Digest:
        """Write a blob beside its place and rename it, so that nobody sees half of it."""
        digest = digest or Digest.of(content)
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        partial = self.directory / f".{digest.hex}.partial"
        partial.write_bytes(content)
        partial.rename(path)
        return digest

    def names(self) -> list[str]:
        """The images' names."""
        return list(self._images)

    def blobs(self) -> list[Path]:
        """The files of the blobs."""
        return list((self.directory / "blobs").glob("*/*"))

    def remove(self, name: str) -> None:
        """Take the name away; the blobs stay."""
        del self._images[name]
        self.write_index()

    def remove_blobs(self, digests: Collection[Digest]) -> None:
        """Delete these blobs, whoever names them."""
        for digest in digests:
            self.path(digest).unlink(missing_ok=True)

    def write_index(self) -> None:
        """Write index.json, whole or not at all."""
        manifests = [
            describe(target) | {"annotations": {annotation: name}}
            for name, (target, annotation) in self._images.items()
        ]
        partial = self.directory / ".index.json.partial"
        partial.write_bytes(_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))
        partial.replace(self.directory / "index.json")


def contents_by_kind(image: Image) -> dict[Digest, Kind]:
    """What kind each blob of this image is."""
    kinds = {image.descriptor.digest: kind_of(image.descriptor.media_type)}
    kinds |= {layer.digest: Kind.LAYER for layer in image.layers}
    if image.config is not None:
        kinds[image.config.digest] = Kind.CONFIG
    for part in image.parts:
        kinds |= contents_by_kind(part)
    return kinds


def _add(blobs: dict[Digest, bytes], content: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor(Digest.of(content), media_type, len(content))
    blobs[descriptor.digest] = content
    return descriptor


def _platform(platform: str) -> dict[str, str]:
    names = ("os", "architecture", "variant")
    return dict(zip(names, platform.split("/"), strict=False))


def _json(fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def _zstd(content: bytes) -> bytes:
    """A Zstandard frame of raw blocks (RFC 8878, section 3.1.1): valid, not smaller, and no library needed."""
    # Descriptor 0xC0: the content's size in 8 bytes, a window; window 0x38: 128 KiB.
    frame = bytearray(b"\x28\xb5\x2f\xfd\xc0\x38" + struct.pack("<Q", len(content)))
    starts = range(0, max(len(content), 1), _ZSTD_BLOCK)
    for start in starts:
        block = content[start : start + _ZSTD_BLOCK]
        last = start == starts[-1]
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return bytes(frame)
