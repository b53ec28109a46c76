"""Small real images for tests: the builder is the demo's."""

from __future__ import annotations

from peili.demo.images import (
    CONTAINERD_NAME,
    OCI_NAME,
    Compression,
    Image,
    Layout,
    build_image,
    build_index,
    compress,
    contents_by_kind,
    describe,
    index_of,
    manifest_of,
    random_bytes,
    tar_of,
)

__all__ = [
    "CONTAINERD_NAME",
    "OCI_NAME",
    "Compression",
    "Image",
    "Layout",
    "build_image",
    "build_index",
    "compress",
    "contents_by_kind",
    "describe",
    "index_of",
    "manifest_of",
    "random_bytes",
    "tar_of",
]
