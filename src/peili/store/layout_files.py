"""Reading an OCI image layout directory (image-spec, image-layout.md). Everything here blocks: use a thread."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest, InvalidDigest
from peili.store.files import read_manifest
from peili.store.index import MAXIMUM_DIGESTS, Unread
from peili.store.manifests import MAXIMUM_LAYOUT_BYTES, InvalidManifest, Manifest, parse_layout_index
from peili.store.protocol import NotInStore, StoreError

_MAXIMUM_VERSION_BYTES = 4096  # of the oci-layout file
_MAXIMUM_ALGORITHMS = 8
_INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Found:
    """A readable regular file: its length in bytes, and when it was last written, in seconds since 1970."""

    size: int
    modified: float


def check_layout(directory: Path) -> None:
    """Raise StoreError unless this is an OCI image layout of a version that can be read."""
    if not directory.is_dir():
        raise StoreError(f"the layout directory {directory} is missing; create it, or name another one")
    content = _read(directory / "oci-layout", _MAXIMUM_VERSION_BYTES)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{directory / 'oci-layout'} is broken: it is not JSON") from error
    version = fields.get("imageLayoutVersion") if isinstance(fields, dict) else None
    if not isinstance(version, str) or not version.startswith("1."):
        raise StoreError(f"{directory} is an OCI layout of version {version!r:.40}; only 1.x can be read")


def algorithms(directory: Path) -> tuple[str, ...]:
    """The names of the directories under blobs/; none where it is missing, as in an empty layout."""
    blobs = directory / "blobs"
    try:
        names = sorted(entry.name for entry in os.scandir(blobs) if entry.is_dir())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"cannot read {blobs}: {error.strerror}") from error
    return tuple(names[:_MAXIMUM_ALGORITHMS])


def list_blobs(directory: Path, algorithm: str) -> dict[Digest, Found]:
    """Every readable blob of this algorithm; what has no digest's name is left alone."""
    blobs = directory / "blobs" / algorithm
    found: dict[Digest, Found] = {}
    try:
        with os.scandir(blobs) as entries:
            for entry in entries:
                digest = digest_of_name(algorithm, entry.name)
                item = look_at(blobs / entry.name) if digest is not None else None
                if digest is not None and item is not None and len(found) < MAXIMUM_DIGESTS:
                    found[digest] = item
    except OSError as error:
        raise StoreError(f"cannot read {blobs}: {error.strerror}") from error
    return found


def digest_of_name(algorithm: str, name: str) -> Digest | None:
    """The digest that a file under blobs/ has by its name, or None."""
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except InvalidDigest:
        return None


def look_at(path: Path) -> Found | None:
    """What lies there, or None unless it is a readable regular file; symbolic links are not followed."""
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.R_OK):
        return None
    return Found(found.st_size, found.st_mtime)


def look_at_all(paths: Sequence[Path]) -> list[Found | None]:
    """`look_at` for each."""
    return [look_at(path) for path in paths]


def read_images(directory: Path) -> Mapping[str, Descriptor]:
    """The images that index.json lists, by name, or by digest where they have no name. Raise StoreError.

    Where a name is there twice the later entry counts: writers append.
    """
    content = _read(directory / _INDEX, MAXIMUM_LAYOUT_BYTES)
    try:
        children = parse_layout_index(content).children
    except InvalidManifest as error:
        raise StoreError(f"{directory / _INDEX} is broken: {error}; what was known stays offered") from error
    return {child.tag or str(child.descriptor.digest): child.descriptor for child in children}


def read_manifests(items: Sequence[tuple[Unread, Path]]) -> list[tuple[Unread, Manifest | NotInStore | None]]:
    """Read what the index asks for; NotInStore in the place of what is corrupt or cannot be read."""
    results: list[tuple[Unread, Manifest | NotInStore | None]] = []
    for item, path in items:
        try:
            results.append((item, read_manifest(path, item)))
        except NotInStore as error:
            results.append((item, error))
    return results


def _read(path: Path, maximum: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(maximum + 1)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; is this an OCI image layout directory?") from error
    if len(content) > maximum:
        raise StoreError(f"{path} is longer than {maximum} bytes")
    return content
