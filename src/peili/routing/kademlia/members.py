"""Who may take part in the router, and what becomes known of those who may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import trio

from peili.libp2p.host import ExtraExtension, VerifiedCertificate

TOLD_INTERVAL: Final = 60.0  # seconds between two lines of the log about refused peers


class Members(Protocol):
    """Proves that this node is a member, and judges the proofs of others; it may change its mind."""

    def extensions(self, public_key: bytes) -> Mapping[str, bytes]:
        """What a certificate of ours with this public key (SubjectPublicKeyInfo, DER) carries, by dotted OID."""
        ...

    def accepts(self, public_key: bytes, extensions: Mapping[str, bytes]) -> bool:
        """Whether a certificate with this public key and these extensions is a member's."""
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this when the two above may answer otherwise than before."""
        ...


class Door:
    """Members, as the host asks for them, and a count of the others."""

    def __init__(self, members: Members | None, log: Callable[..., None]) -> None:
        self._members = members
        self._log = log
        self._told = -TOLD_INTERVAL
        self.refused = 0

    def extensions(self, public_key: bytes) -> list[ExtraExtension]:
        """For our certificate."""
        if self._members is None:
            return []
        return [ExtraExtension(oid, value) for oid, value in self._members.extensions(public_key).items()]

    def lets_in(self, certificate: VerifiedCertificate) -> bool:
        """Whether the peer with this good certificate may take part."""
        return self._members is None or self._members.accepts(certificate.public_key, certificate.extensions)

    def refuse(self, peer_id: object, host: str) -> None:
        """A peer was refused: strangers may come as often as they like, the log hears of it now and then."""
        self.refused += 1
        now = trio.current_time()
        if now - self._told >= TOLD_INTERVAL:
            self._told = now
            problem = "it does not know this cluster's secret; compare --cluster-secret-file on both nodes"
            self._log("refused a peer", peer=str(peer_id), host=host, problem=problem, refused=self.refused)
