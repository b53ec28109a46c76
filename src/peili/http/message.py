"""What HTTP messages are made of: addresses, header fields, the head of a request (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Self

# RFC 9110, section 5.6.2 (token) and 5.5 (field-value: visible characters, obs-text, space and tab inside).
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|")


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """One end of a TCP connection. `host` is an IP address without brackets; to a client it may be a name."""

    host: str
    port: int

    @classmethod
    def of(cls, name: tuple[str, int] | tuple[str, int, int, int]) -> Self:
        """From what getsockname, getpeername and accept give; an IPv4 address mapped into IPv6 becomes IPv4."""
        host, port = name[0], name[1]
        if host.startswith("::ffff:") and (mapped := IPv6Address(host).ipv4_mapped) is not None:
            host = str(mapped)
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Headers:
    """Header fields: immutable, ordered, found without regard to case. Values are latin-1 text (RFC 9110, 5.5)."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        """Raise ValueError on a name or value that cannot be sent: no line breaks, no control characters."""
        self._items = tuple(items)
        for name, value in self._items:
            if not _NAME.fullmatch(name):
                raise ValueError(f"not the name of a header field: {name[:80]!r}")
            if not _VALUE.fullmatch(value):
                raise ValueError(f"not a value for the header field {name}: {value[:80]!r}")

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        """From a mapping of names to values; raise ValueError as the constructor does."""
        return cls(fields.items())

    @classmethod
    def of_raw(cls, items: Iterable[tuple[bytes, bytes]]) -> Self:
        """From the bytes that h11 has already checked."""
        self = cls.__new__(cls)
        self._items = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in items)
        return self

    def get(self, name: str) -> str | None:
        """The first value of this name, or None."""
        wanted = name.lower()
        return next((value for name, value in self._items if name.lower() == wanted), None)

    def get_all(self, name: str) -> tuple[str, ...]:
        """All values of this name, in order."""
        wanted = name.lower()
        return tuple(value for name, value in self._items if name.lower() == wanted)

    def with_(self, name: str, value: str) -> Headers:
        """A copy in which this name has this one value; raise ValueError as the constructor does."""
        return Headers((*self.without(name), (name, value)))

    def without(self, name: str) -> Headers:
        """A copy that lacks this name."""
        unwanted = name.lower()
        return Headers((name, value) for name, value in self._items if name.lower() != unwanted)

    def raw(self) -> list[tuple[bytes, bytes]]:
        """As bytes, for h11."""
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in self._items]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._folded() == other._folded()

    def __hash__(self) -> int:
        return hash(self._folded())

    def __repr__(self) -> str:
        return f"Headers({list(self._items)!r})"

    def _folded(self) -> tuple[tuple[str, str], ...]:
        return tuple((name.lower(), value) for name, value in self._items)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. `target` as it was sent: visible ASCII, undecoded; `client` is who sent it."""

    method: str
    target: str
    headers: Headers
    client: SocketAddress
