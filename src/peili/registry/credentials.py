"""Basic authentication (RFC 7617) without a challenge.

A wrong or missing credential gets 403 and never WWW-Authenticate: containerd answers a mirror's challenge with the
pod's own pull secret, in clear where the mirror speaks http (seen on 1.6, 1.7 and 2.1).
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field


class InvalidCredentials(ValueError):
    """The text is not `user:password`."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One user and password, shared by all nodes and their containerds."""

    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Parse the one line `user:password`; raise InvalidCredentials, which does not repeat the text."""
        line = text.strip("\r\n")
        user, colon, password = line.partition(":")
        if not colon or not user or not password:
            raise InvalidCredentials("the file has to hold one line, user:password")
        if any(ord(character) < 32 or ord(character) == 127 for character in line):
            raise InvalidCredentials("the file holds control characters or more than one line")
        return cls(user, password)

    @property
    def line(self) -> str:
        """`user:password`, as it stands in the file."""
        return f"{self.user}:{self.password}"

    @property
    def header(self) -> str:
        """The value of the Authorization header."""
        return "Basic " + base64.b64encode(self.line.encode()).decode("ascii")

    def accept(self, header: str | None) -> bool:
        """Whether a request's Authorization header carries these credentials; in constant time."""
        scheme, _, encoded = (header or "").partition(" ")
        mine = self.header.partition(" ")[2]
        same = hmac.compare_digest(encoded.strip().encode("utf-8", "replace"), mine.encode("ascii"))
        return same and scheme.lower() == "basic"
