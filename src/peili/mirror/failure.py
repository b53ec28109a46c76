"""How a provider can fail us: the kinds that metrics count and logs name."""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    """Why an attempt at a provider brought nothing, or not all."""

    CONNECT = "connect"  # refused, unreachable, no connection in time
    NO_MEANS = "no_means"  # not asked: this node has no descriptor, port or memory for a connection
    TIMEOUT = "timeout"  # connected, but no head of an answer in time
    PROTOCOL = "protocol"  # not HTTP, or an answer that HTTP does not allow
    NOT_FOUND = "not_found"  # the provider has it no longer
    DENIED = "denied"  # 401 or 403: credentials differ between the nodes, or a filter
    BUSY = "busy"  # 503: the provider's upload limit
    STATUS = "status"  # any other status
    RANGE = "range"  # 416: the range asked for begins beyond the end of what the provider has
    LENGTH = "length"  # a length or range that does not fit what was asked
    DIGEST = "digest"  # other content than asked
    TYPE = "type"  # a media type that does not fit
    UNPROVEN = "unproven"  # what a tag leads to, told by somebody who is no member of the cluster
    STALLED = "stalled"  # no progress in the middle
    ENDED = "ended"  # the connection ended in the middle

    @property
    def blames_node(self) -> bool:
        """Whether the provider should be asked last for a while."""
        return self in _NODE_IS_AT_FAULT


# These say something of the node, not only of the one key: such a provider is asked last for a while.
# Who asks for a range beyond the end is at fault, not who says so: else any client could make honest peers suspect.
_NODE_IS_AT_FAULT = frozenset(FailureKind) - {
    FailureKind.NO_MEANS,
    FailureKind.NOT_FOUND,
    FailureKind.BUSY,
    FailureKind.RANGE,
}


class AttemptFailed(Exception):
    """One provider failed; the next is asked."""

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind

    @property
    def blames_node(self) -> bool:
        """Whether the provider should be asked last for a while."""
        return self.kind.blames_node


class RangeBeyondEnd(AttemptFailed):
    """The provider has no such bytes; `size` is that of the whole content, None where it does not say."""

    def __init__(self, size: int | None) -> None:
        super().__init__(FailureKind.RANGE, f"status 416, of {'?' if size is None else size} bytes")
        self.size = size
