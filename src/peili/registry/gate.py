"""Who is asking, and may they? A pure decision but for the look at this machine's own addresses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from peili.http.message import Request
from peili.oci.descriptor import Descriptor
from peili.oci.errors import ErrorCode, Refusal
from peili.registry.clients import ClientNetworks
from peili.registry.credentials import Credentials

MIRRORED_HEADER = "X-Peili-Mirrored"
SPEGEL_MIRRORED_HEADER = "X-Spegel-Mirrored"
# Peers of the other kind mark their requests so; both are understood.
_MIRRORED_HEADERS = (MIRRORED_HEADER, SPEGEL_MIRRORED_HEADER)


class Caller(Enum):
    """Who asks."""

    CLIENT = auto()  # this node's containerd, or whoever may ask in its place
    PEER = auto()  # another node: only the local store answers


class Members(Protocol):
    """Judges the proofs of members."""

    def objection(self, method: str, target: str, stamp: str | None) -> str:
        """Why a request with this stamp, received now, is not a member's; empty where it is one."""
        ...

    def answer_stamp(self, stamp: str, digest: str, media_type: str) -> str:
        """The header's value of the answer, with this content, to a request whose stamp was found good."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """What a request has to show. Without `members` peers need no proof; without `clients` they may be anywhere.

    A member shows its MAC and needs no password, so that a password never travels between nodes of a cluster with
    a secret.
    """

    stamp_header: str = ""
    members: Members | None = None
    clients: ClientNetworks | None = None
    credentials: Credentials | None = None

    def judge(self, request: Request) -> Caller | Refusal:
        """Who asks, or why the request is refused."""
        is_peer = any(name in request.headers for name in _MIRRORED_HEADERS)
        if is_peer and self.members is not None:
            stamps = request.headers.get_all(self.stamp_header)
            objection = self.members.objection(
                request.method, request.target, stamps[0] if len(stamps) == 1 else None
            )
            return Refusal(403, ErrorCode.DENIED, f"only for members: {objection}") if objection else Caller.PEER
        if not is_peer and self.clients is not None and not self.clients.allows(request.client.host):
            text = f"only for clients on this node; {request.client.host} is in no --client-network"
            return Refusal(403, ErrorCode.DENIED, text)
        if self.credentials is not None and not self.credentials.accept(request.headers.get("Authorization")):
            text = "wrong or missing credentials; all nodes and hosts.toml need the same --basic-auth-file"
            return Refusal(403, ErrorCode.DENIED, text)
        return Caller.PEER if is_peer else Caller.CLIENT

    def answer_fields(self, request: Request, content: Descriptor) -> dict[str, str]:
        """What proves to a peer that a member answered its request, which was judged, with this content."""
        stamp = request.headers.get(self.stamp_header) if self.members is not None else None
        if self.members is None or stamp is None:
            return {}
        return {self.stamp_header: self.members.answer_stamp(stamp, str(content.digest), content.media_type)}
