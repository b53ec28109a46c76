"""What is known of a request once it was answered: one log line, some metrics, one row of `peili status`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Handler(StrEnum):
    """Who asked: this node's containerd (or anybody else) or a peer."""

    MIRROR = "mirror"
    SERVE = "serve"
    BASE = "base"
    STRANGER = "stranger"  # neither a member of the cluster nor a client of this node, or without the password
    INVALID = "invalid"


class Outcome(StrEnum):
    """How it ended."""

    HIT = "hit"
    MISS = "miss"
    REFUSED = "refused"  # by the policy, by credentials, or because the request means nothing
    TRUNCATED = "truncated"  # the body ended early: containerd resumes elsewhere
    GONE = "gone"  # the reader went away
    ERROR = "error"


class ByteSource(StrEnum):
    """Where the bytes came from."""

    LOCAL = "local"
    GROWING = "growing"  # what this node was still receiving
    PEER = "peer"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One answered request. Times in seconds from the request's head, sizes in bytes; wall-clock `at` in Unix time.

    `client` and `providers` are addresses `host:port`; `resolve_seconds` and `first_byte_seconds` are 0 where
    nothing was resolved or sent.
    """

    at: float
    handler: Handler
    method: str
    kind: str  # "manifest", "blob", "base" or "invalid"
    registry: str
    repository: str
    name: str  # the tag or the digest
    client: str
    status: int
    outcome: Outcome
    source: ByteSource
    reason: str
    size: int  # bytes of body that were sent
    providers: tuple[str, ...]
    attempts: int
    resumes: int
    resolve_seconds: float
    first_byte_seconds: float
    seconds: float
