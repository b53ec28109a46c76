"""A peer's id as text and as bytes, also where it is none of libp2p's: routers in memory name peers freely."""

from __future__ import annotations

from peili.libp2p.peer_id import InvalidPeerId, PeerId


def raw_id(text: str) -> bytes:
    """The bytes that messages carry."""
    try:
        return PeerId.parse(text).to_bytes()
    except InvalidPeerId:
        return text.encode()


def text_id(raw: bytes) -> str:
    """The text of it, as logs and settings have it."""
    try:
        return str(PeerId(raw))
    except InvalidPeerId:
        return raw.decode(errors="replace")
