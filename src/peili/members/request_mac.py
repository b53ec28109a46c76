"""Membership in HTTP: a MAC over method, target and time of a request between peers, and one over its answer.

The header is `X-Peili-Member: 1 TIME MAC`, with the version 1, the Unix time in seconds, and HMAC-SHA256 in
hexadecimal. Whoever hears a request can repeat it for WINDOW seconds, and gets what could be heard already:
every request is a read.

The answer for a tag carries `X-Peili-Member: 1 MAC`, over the request's own MAC, the digest and the media type:
what a tag leads to is the one thing that no digest of ours checks. It cannot be used for any other request.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MEMBER_HEADER: Final = "X-Peili-Member"
WINDOW: Final = 60.0  # seconds that two clocks may differ, and that a request stays good
_STAMP: Final = re.compile(r"1 (0|[1-9][0-9]{0,11}) ([0-9a-f]{64})", re.ASCII)


class InvalidStamp(ValueError):
    """The header's value is not of the form `1 TIME MAC`."""


class NotAMember(Exception):
    """The request does not prove that it comes from a member; the text says why."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the header says. `time` in seconds of Unix time."""

    time: int
    mac: bytes

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """Parse the header's value; raise InvalidStamp."""
        found = _STAMP.fullmatch(text)
        if found is None:
            raise InvalidStamp("not of the form `1 TIME MAC`")
        return cls(int(found[1]), bytes.fromhex(found[2]))

    def __str__(self) -> str:
        return f"1 {self.time} {self.mac.hex()}"


def sign(key: bytes, method: str, target: str, now: float) -> Stamp:
    """The stamp of a request; `target` is the whole request target, as it goes over the wire (visible ASCII)."""
    return Stamp(int(now), _mac(key, method, target, int(now)))


def check(keys: Iterable[bytes], text: str | None, method: str, target: str, now: float) -> None:
    """Raise NotAMember unless one of the keys made this stamp, for this request, within WINDOW."""
    if text is None:
        raise NotAMember(f"there is no {MEMBER_HEADER}: the sender has no --cluster-secret-file")
    try:
        stamp = Stamp.parse(text)
    except InvalidStamp as error:
        raise NotAMember(f"{MEMBER_HEADER} is {error}") from error
    good = [hmac.compare_digest(_mac(key, method, target, stamp.time), stamp.mac) for key in keys]
    if not any(good):
        raise NotAMember(f"{MEMBER_HEADER} was made with another cluster secret, or for another request")
    if abs(now - stamp.time) > WINDOW:
        # Only to somebody who knows the secret: to others our clock is not worth a word.
        raise NotAMember(f"the clocks of the two nodes differ by {abs(now - stamp.time):.0f} s; set them right")


def sign_answer(key: bytes, stamp: Stamp, digest: str, media_type: str) -> str:
    """The header's value in the answer to a request with this stamp."""
    return f"1 {_answer_mac(key, stamp, digest, media_type).hex()}"


def check_answer(keys: Iterable[bytes], stamp: Stamp, text: str | None, digest: str, media_type: str) -> None:
    """Raise NotAMember unless one of the keys made this value for the answer to a request with this stamp."""
    if text is None:
        raise NotAMember(f"the answer for a tag has no {MEMBER_HEADER}")
    given = text.encode("utf-8", "surrogatepass")
    good = [hmac.compare_digest(sign_answer(key, stamp, digest, media_type).encode(), given) for key in keys]
    if not any(good):
        raise NotAMember(f"{MEMBER_HEADER} of the answer was not made by a member for this request and content")


def _mac(key: bytes, method: str, target: str, time: int) -> bytes:
    # Neither a method nor a target can hold a line break, so no two requests have the same text.
    return hmac.digest(key, f"1\n{method}\n{target}\n{time}".encode("utf-8", "surrogatepass"), "sha256")


def _answer_mac(key: bytes, stamp: Stamp, digest: str, media_type: str) -> bytes:
    text = f"1\n{stamp.mac.hex()}\n{digest}\n{media_type}"
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
