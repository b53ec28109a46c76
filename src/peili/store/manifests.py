"""Reading indexes and manifests: what they say of their children (image-spec, image-index.md and manifest.md).

Images come from strangers. So the bytes are bounded before they are parsed, every field that is used is checked,
and whatever does not fit raises InvalidManifest. No I/O here; 4 MiB take tens of milliseconds: use a thread.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest, InvalidDigest
from peili.oci.key import Key, tag_key
from peili.oci.media_types import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
)
from peili.oci.reference import InvalidReference, Reference
from peili.store.protocol import Kind

MAXIMUM_MANIFEST_BYTES = 4 * 1024 * 1024  # distribution-spec, Pushing manifests: registries should take 4 MiB
MAXIMUM_INDEX_CHILDREN = 2_000  # real ones have a few dozen platforms and attestations
MAXIMUM_LAYERS = 2_000  # overlayfs takes 500 at most
MAXIMUM_LAYOUT_BYTES = 32 * 1024 * 1024  # a layout's index.json: the operator's own file, one entry an image
MAXIMUM_LAYOUT_CHILDREN = 20_000
# Three bytes of JSON can become a Python object of 64 bytes, so the values are counted before they are built.
MAXIMUM_JSON_VALUES = 100_000
MAXIMUM_LAYOUT_JSON_VALUES = 1_000_000
_MAXIMUM_SIZE = 2**63 - 1
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # RFC 6838, section 4.2
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
# Where an entry of index.json carries its image's name: containerd's own annotation before the specified one.
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class InvalidManifest(ValueError):
    """The bytes are neither an index nor a manifest that Peili understands."""


@dataclass(frozen=True, slots=True)
class Child:
    """What an index or a manifest says of one of its children; `tag` is the key that its annotations give it."""

    descriptor: Descriptor
    kind: Kind
    tag: Key | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """An index or a manifest; `declared` where it names its media type itself, else that comes from its shape."""

    kind: Kind  # INDEX or MANIFEST
    media_type: str
    declared: bool
    children: tuple[Child, ...]


def parse_manifest(content: bytes) -> Manifest:
    """Parse an index or a manifest of at most 4 MiB; raise InvalidManifest on anything else."""
    if len(content) > MAXIMUM_MANIFEST_BYTES:
        raise InvalidManifest(f"longer than {MAXIMUM_MANIFEST_BYTES} bytes")
    return _manifest(load_object(content), MAXIMUM_INDEX_CHILDREN)


def parse_layout_index(content: bytes) -> Manifest:
    """Parse the index.json of an OCI layout, which may be longer than an image's; raise InvalidManifest."""
    if len(content) > MAXIMUM_LAYOUT_BYTES:
        raise InvalidManifest(f"longer than {MAXIMUM_LAYOUT_BYTES} bytes")
    manifest = _manifest(load_object(content, MAXIMUM_LAYOUT_JSON_VALUES), MAXIMUM_LAYOUT_CHILDREN)
    if manifest.kind is not Kind.INDEX:
        raise InvalidManifest("a manifest where an index must be")
    return manifest


def image_tag_key(name: str) -> Key | None:
    """The key of an image by its name, or None where that is not a full reference with a tag and without a digest.

    containerd gives an image up to three names; `sha256:<id>` and `repository@sha256:…` are no tags, and
    `repository:tag@sha256:…` does not say where the tag itself leads. A registry in upper case is none either, so
    that no two names have one key.
    """
    try:
        key = tag_key(Reference.parse(name))
    except InvalidReference:
        return None
    return key if key == name else None


def kind_of(media_type: str) -> Kind:
    """The kind that this media type tells: an index, a manifest, or unknown."""
    if media_type in INDEXES:
        return Kind.INDEX
    return Kind.MANIFEST if media_type in MANIFESTS else Kind.UNKNOWN


def _manifest(fields: Mapping[str, object], maximum_children: int) -> Manifest:
    """Tell an index from a manifest; both shapes in one document are refused (CVE-2021-41190)."""
    is_index = fields.get("manifests") is not None
    is_manifest = fields.get("config") is not None or fields.get("layers") is not None
    if is_index and is_manifest:
        raise InvalidManifest("an index and a manifest at once")
    if not is_index and not is_manifest:
        raise InvalidManifest("neither an index nor a manifest")
    kind = Kind.INDEX if is_index else Kind.MANIFEST
    declared = _media_type(fields)
    if declared and kind_of(declared) is not kind:
        raise InvalidManifest(f"a {kind} by its shape, and {declared} by its mediaType")
    if is_index:
        children = tuple(_index_child(item) for item in _items(fields, "manifests", maximum_children))
    else:
        children = _manifest_children(fields)
    return Manifest(kind, declared or _shape_type(kind, fields, children), bool(declared), children)


def _shape_type(kind: Kind, fields: Mapping[str, object], children: tuple[Child, ...]) -> str:
    docker = bool(children) and children[0].descriptor.media_type.startswith("application/vnd.docker.")
    if kind is Kind.INDEX:
        return DOCKER_INDEX if docker else OCI_INDEX
    return DOCKER_MANIFEST if docker else OCI_MANIFEST


def _index_child(item: object) -> Child:
    descriptor, fields = _descriptor(item)
    return Child(descriptor, kind_of(descriptor.media_type), _annotated_tag(fields.get("annotations")))


def _manifest_children(fields: Mapping[str, object]) -> tuple[Child, ...]:
    config = _descriptor(fields.get("config"))[0]
    layers = (_descriptor(item)[0] for item in _items(fields, "layers", MAXIMUM_LAYERS))
    return (Child(config, Kind.CONFIG), *(Child(layer, Kind.LAYER) for layer in layers))


def _annotated_tag(annotations: object) -> Key | None:
    if annotations is None:
        return None
    if not isinstance(annotations, dict):
        raise InvalidManifest("annotations must be an object")
    for annotation in _NAME_ANNOTATIONS:
        name = annotations.get(annotation)
        key = image_tag_key(name) if isinstance(name, str) else None
        if key is not None:
            return key
    return None


def _items(fields: Mapping[str, object], name: str, maximum: int) -> list[object]:
    items = fields.get(name)
    if not isinstance(items, list):
        raise InvalidManifest(f"{name} must be a list")
    if len(items) > maximum:
        raise InvalidManifest(f"more than {maximum} {name}")
    return items


def _descriptor(item: object) -> tuple[Descriptor, Mapping[str, object]]:
    if not isinstance(item, dict):
        raise InvalidManifest("a descriptor must be an object")
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(digest, str):
        raise InvalidManifest("a descriptor's digest must be a string")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAXIMUM_SIZE:
        raise InvalidManifest("a descriptor's size must be a number of bytes")
    try:
        parsed = Digest.parse(digest)
    except InvalidDigest as error:
        raise InvalidManifest(str(error)) from error
    return Descriptor(parsed, _media_type(item) or OCTET_STREAM, size), item


def _media_type(fields: Mapping[str, object]) -> str:
    """The mediaType field; empty where there is none. It ends up in a header, so its characters are checked."""
    text = fields.get("mediaType")
    if text is None or text == "":
        return ""
    if not isinstance(text, str) or not _MEDIA_TYPE.fullmatch(text):
        raise InvalidManifest("a mediaType must look like type/subtype")
    return sys.intern(text)  # thousands of descriptors share a handful of types


def load_object(content: bytes, maximum_values: int = MAXIMUM_JSON_VALUES) -> dict[str, object]:
    """Load a JSON object (RFC 8259); refuse what costs far more memory than its bytes, or means two things."""
    if sum(content.count(mark) for mark in (b"[", b"{", b",")) > maximum_values:
        raise InvalidManifest(f"more than {maximum_values} values")
    try:
        loaded = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except InvalidManifest:
        raise
    except (ValueError, RecursionError) as error:  # deep nesting recurses
        raise InvalidManifest(f"not JSON: {str(error)[:120]}") from error
    if not isinstance(loaded, dict):
        raise InvalidManifest("not a JSON object")
    return loaded


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):  # readers differ in which one counts (RFC 8259, section 4)
        raise InvalidManifest("an object with a field twice")
    return fields


def _refuse_constant(name: str) -> object:
    raise InvalidManifest(f"{name} is not JSON")
