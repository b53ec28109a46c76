"""What this node's requests to peers carry, and what their answers have to."""

from __future__ import annotations

from peili.http.message import Headers
from peili.members.membership import Membership
from peili.members.request_mac import MEMBER_HEADER


class PeerRequests:
    """Signs requests; without a membership it only adds the fixed fields, and trusts every answer."""

    def __init__(self, fixed: Headers, membership: Membership | None) -> None:
        self._fixed = fixed
        self._membership = membership

    def headers(self, method: str, target: str) -> Headers:
        """For a request that is sent now; `target` as it goes over the wire."""
        if self._membership is None:
            return self._fixed
        return self._fixed.with_(MEMBER_HEADER, self._membership.stamp(method, target))

    def objection(self, asked: Headers, answer: Headers, digest: str, media_type: str) -> str:
        """Why an answer for a tag, which leads to this content, is not a member's; empty where it is one."""
        stamp = asked.get(MEMBER_HEADER)
        if self._membership is None or stamp is None:
            return ""
        return self._membership.answer_objection(stamp, answer.get(MEMBER_HEADER), digest, media_type)
