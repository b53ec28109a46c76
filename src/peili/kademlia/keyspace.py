"""The key space: keys and peers as 256-bit positions, and the XOR distance between them.

libp2p/specs, kad-dht, section Distance: distance = XOR of sha256(key bytes) and sha256(peer id bytes). The key
bytes of a provided string are its sha256 multihash, so a key's position is a hash of a hash.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Final

POSITION_BITS: Final = 256
DIGEST_LENGTH: Final = 32  # bytes
MULTIHASH_PREFIX: Final = b"\x12\x20"  # sha2-256, 32 bytes follow
MAX_SEARCHED_PREFIX: Final = 12  # bits; a random key of a given prefix is found by trying, 2**bits tries on average


def key_digest(key: str) -> bytes:
    """The sha256 of a key string, 32 bytes: what records and our own messages carry."""
    return hashlib.sha256(key.encode()).digest()


def kad_key(digest: bytes) -> bytes:
    """The 34 bytes that Kademlia messages carry for a key digest."""
    return MULTIHASH_PREFIX + digest


def digest_of(kad_key_bytes: bytes) -> bytes | None:
    """The key digest within a Kademlia key, or None where it is not a sha2-256 multihash."""
    if len(kad_key_bytes) != len(MULTIHASH_PREFIX) + DIGEST_LENGTH or kad_key_bytes[:2] != MULTIHASH_PREFIX:
        return None
    return kad_key_bytes[2:]


def position(raw: bytes) -> int:
    """Where a peer id or a Kademlia key (any bytes) lies, 0 <= position < 2**256."""
    return int.from_bytes(hashlib.sha256(raw).digest(), "big")


def digest_position(digest: bytes) -> int:
    """Where the key with this digest lies."""
    return position(MULTIHASH_PREFIX + digest)


def distance(one: int, other: int) -> int:
    """The XOR metric between two positions."""
    return one ^ other


def common_prefix_length(one: int, other: int) -> int:
    """How many leading bits two positions share, 0 to 256."""
    return POSITION_BITS - (one ^ other).bit_length()


def key_with_prefix(own: int, shared: int, random: Random) -> bytes:
    """A random Kademlia key (34 bytes) whose position shares exactly `shared` bits with `own`.

    Others answer FIND_NODE for preimages only, so one is searched for. Raise ValueError above
    MAX_SEARCHED_PREFIX; the neighbourhood beyond it is found by looking up the own id.
    """
    if not 0 <= shared <= MAX_SEARCHED_PREFIX:
        raise ValueError(f"a prefix has 0 to {MAX_SEARCHED_PREFIX} bits, not {shared}")
    while True:
        candidate = kad_key(random.randbytes(DIGEST_LENGTH))
        if common_prefix_length(own, position(candidate)) == shared:
            return candidate
