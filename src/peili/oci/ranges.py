"""Byte ranges (RFC 9110, section 14), as far as a registry's blobs need them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})/(?P<size>[0-9]{1,19})", re.ASCII)
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(?P<size>[0-9]{1,19})", re.ASCII)


class InvalidRange(ValueError):
    """A Content-Range that means nothing."""


class UnsatisfiableRange(ValueError):
    """The range begins beyond the end: 416."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to and without `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """One requested range: from `first` to `last` (inclusive, None: to the end), or the last `suffix` bytes."""

    first: int = 0
    last: int | None = None
    suffix: int | None = None

    def resolve(self, size: int) -> Span:
        """The bytes of content of this size; raise UnsatisfiableRange."""
        if self.suffix is not None:
            if self.suffix == 0 or size == 0:
                raise UnsatisfiableRange(f"no byte of {size} is in the range asked for")
            return Span(max(0, size - self.suffix), size)
        if self.first >= size:
            raise UnsatisfiableRange(f"the range begins at {self.first}, the content has {size} bytes")
        return Span(self.first, size if self.last is None else min(self.last + 1, size))

    def __str__(self) -> str:
        if self.suffix is not None:
            return f"bytes=-{self.suffix}"
        return f"bytes={self.first}-{'' if self.last is None else self.last}"


def parse_range(header: str | None) -> RangeRequest | None:
    """The one range that a Range header asks for; None means the whole content.

    None as well for several ranges, for other units and for what cannot be read (RFC 9110 lets a server ignore
    them), and for `bytes=0-`: a 206 to that starts containerd's parallel mode, in which a later 404 fails the
    pull instead of sending it upstream.
    """
    found = _RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None:
        return None
    first, last = found["first"], found["last"]
    if not first:
        return RangeRequest(suffix=int(last)) if last else None
    if not last:
        return RangeRequest(int(first)) if int(first) > 0 else None
    if int(last) < int(first):
        return None
    return RangeRequest(int(first), int(last))


def render_content_range(span: Span, size: int) -> str:
    """The Content-Range of a 206."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def render_unsatisfied_range(size: int) -> str:
    """The Content-Range of a 416."""
    return f"bytes */{size}"


def parse_content_range(header: str | None) -> tuple[Span, int]:
    """The span and the whole size that a 206 states; raise InvalidRange."""
    found = _CONTENT_RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None:
        raise InvalidRange(f"not a Content-Range: {str(header)[:80]!r}")
    first, last, size = int(found["first"]), int(found["last"]), int(found["size"])
    if not first <= last < size:
        raise InvalidRange(f"a Content-Range that contradicts itself: {str(header)[:80]!r}")
    return Span(first, last + 1), size


def parse_unsatisfied_range(header: str | None) -> int:
    """The whole size that a 416 states; raise InvalidRange."""
    found = _UNSATISFIED_RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None:
        raise InvalidRange(f"not the Content-Range of a 416: {str(header)[:80]!r}")
    return int(found["size"])
