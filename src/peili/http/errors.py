"""Everything that can go wrong in this room; nothing of h11, and no error of a socket, leaves it otherwise."""

from __future__ import annotations


class HttpError(Exception):
    """The base of this room's errors."""


class ConnectFailed(HttpError):
    """Client: nobody answers there: refused, unreachable, no such name, or not connected in time."""


class NoMeans(HttpError):
    """Client: this machine has no descriptor, port or memory for a connection; nothing is known of the peer."""


class ResponseTimeout(HttpError):
    """Client: the head of the answer did not come in time."""


class BadResponse(HttpError):
    """Client: what came is no usable answer: not HTTP, an oversized head, a body of unknown length, nothing."""


class BodyTooLarge(HttpError):
    """Client: the body is longer than the caller is willing to hold in memory."""


class SourceFailed(HttpError):
    """The source of a body failed. `moved` bytes of the relay have reached the sink's socket (read: were read)."""

    def __init__(self, message: str, moved: int = 0) -> None:
        super().__init__(message)
        self.moved = moved


class SourceEnded(SourceFailed):
    """The source's connection ended or broke before the promised length."""


class SourceStalled(SourceFailed):
    """The source made no progress for the stall timeout."""


class SinkClosed(HttpError):
    """Server: the reader of our answer went away, or took nothing for the write timeout."""
