"""Pack a root file system as an OCI image layout in one tar file: the same bytes for the same tree.

Specifications: OCI image-spec v1.1 (image-layout.md, manifest.md, config.md). Standard library only.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# Nobody in the image reads times (the byte code is not compared with its source), and real ones differ each build.
FIXED_TIME = 0
COMPRESSION = 9


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed: the manifest's digest, and sizes in bytes."""

    digest: str
    unpacked: int
    compressed: int


def pack(root: Path, name: str, architecture: str, config: Mapping[str, object], output: Path) -> Packed:
    """Write `root` as an image of one layer with this full name (`registry/repository:tag`) to a tar file."""
    tar = layer_of(root)
    layer = gzip.compress(tar, COMPRESSION, mtime=FIXED_TIME)
    platform = {"architecture": architecture, "os": "linux"}
    fields = {**platform, "config": config, "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}}
    blobs: dict[str, bytes] = {}
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _add(blobs, _json(fields), CONFIG),
            "layers": [_add(blobs, layer, LAYER)],
        }
    )
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    entry = {**_add(blobs, manifest, MANIFEST), "platform": platform, "annotations": annotations}
    files = {f"blobs/sha256/{digest.partition(':')[2]}": content for digest, content in blobs.items()}
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    files["index.json"] = _json({"schemaVersion": 2, "manifests": [entry]})
    partial = output.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(content), 0o644, FIXED_TIME
            archive.addfile(member, io.BytesIO(content))
    partial.rename(output)
    return Packed(str(entry["digest"]), unpacked_size(root), len(layer))


def layer_of(root: Path) -> bytes:
    """The tree as a tar file: sorted, owned by root, with fixed times. Hard links become files of their own."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _walk(root):
            member = _member(path, path.relative_to(root).as_posix())
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
    return out.getvalue()


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _member(path: Path, name: str) -> tarfile.TarInfo:
    state = path.lstat()
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = stat.S_IMODE(state.st_mode), FIXED_TIME
    if stat.S_ISLNK(state.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)  # noqa: PTH115 the text as it is
    elif stat.S_ISDIR(state.st_mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISREG(state.st_mode):
        member.size = state.st_size
    else:
        raise ValueError(f"{path}: neither a file, a directory nor a link")
    return member


def unpacked_size(root: Path) -> int:
    """What the files of a tree hold, in bytes."""
    return sum(path.lstat().st_size for path in _walk(root) if not path.is_dir() or path.is_symlink())


def digest_of(content: bytes) -> str:
    """The sha256 digest as the specification writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _add(blobs: dict[str, bytes], content: bytes, media_type: str) -> dict[str, object]:
    digest = digest_of(content)
    blobs[digest] = content
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _json(fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
