"""The two names of one peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerIds:
    """Providers are named by text, as people read it, and in the tree of a pull by bytes: the same peers."""

    to_bytes: Callable[[str], bytes] = str.encode
    to_text: Callable[[bytes], str] = bytes.decode
