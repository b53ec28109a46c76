"""What this room knows of another node: an opaque id, opaque addresses, and where its registry listens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer. `id` is the raw multihash of its libp2p peer id; addresses are binary multiaddrs, never read here."""

    id: bytes
    addresses: tuple[bytes, ...] = ()
    registry_port: int = 0  # 0: unknown, the peer is not of our kind
    zone: str = ""
