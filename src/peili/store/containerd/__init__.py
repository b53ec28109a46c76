"""The content store of this node's containerd: metadata and events over gRPC, bytes from its files."""

from peili.store.containerd.store import ContainerdStore

__all__ = ["ContainerdStore"]
