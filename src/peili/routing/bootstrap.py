"""Bootstrap: where a node finds its first peers.

Four sources: `dns:NAME[:PORT]`, `http:URL`, `static:ADDRESS,…` and `file:PATH`. An ADDRESS is a multiaddr
(`/ip4/10.0.0.1/tcp/5001`, with or without `/p2p/ID`), `IP:PORT` or `[IP6]:PORT`. Everything here is pure; the
questions to the network are asked by routing/resolve.py.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

_T = TypeVar("_T")

MAXIMUM_ADDRESSES = 512  # of one source in one round; more are left out
MAXIMUM_ADDRESS_LENGTH = 256  # characters
MAXIMUM_SOURCE_LENGTH = 64 * 1024  # characters
_NAME = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
# base58btc or a CID in base32; which key it stands for is checked by the wire.
_PEER_ID = re.compile(r"[1-9A-Za-z]{1,128}", re.ASCII)
_SHAPES = "dns:NAME[:PORT], http:URL, static:ADDRESS,… or file:PATH"
_ADDRESS_SHAPES = "/ip4/IP/tcp/PORT, /ip6/IP/tcp/PORT (each with or without /p2p/ID), IP:PORT or [IP6]:PORT"


class InvalidBootstrap(ValueError):
    """A bootstrap source, or what it answered, is not of the allowed shape; the text says what is."""


@dataclass(frozen=True, slots=True)
class BootstrapAddress:
    """Where a router may listen. `host` is an IP address as text; `peer_id` is empty where it is not known."""

    host: str
    port: int
    peer_id: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DnsSource:
    """The A and AAAA records of a name; `port` None means the port of our own router."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        return f"dns:{self.name}" if self.port is None else f"dns:{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A URL that answers with a JSON list of addresses."""

    url: str

    def __str__(self) -> str:
        return f"http:{self.url}"


@dataclass(frozen=True, slots=True)
class StaticSource:
    """Addresses given once."""

    addresses: tuple[BootstrapAddress, ...]

    def __str__(self) -> str:
        return "static:" + ",".join(map(str, self.addresses))


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file with one address a line, read again in each round."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


Source = DnsSource | HttpSource | StaticSource | FileSource


def parse_source(text: str) -> Source:
    """Parse one value of the bootstrap setting; raise InvalidBootstrap."""
    if len(text) > MAXIMUM_SOURCE_LENGTH:
        raise InvalidBootstrap(f"a bootstrap source of more than {MAXIMUM_SOURCE_LENGTH} characters: {text[:80]!r}")
    kind, _, rest = text.partition(":")
    match kind:
        case "dns":
            return _parse_dns(rest)
        case "http" | "https":
            # Both `http:http://host/id` and `http://host/id` name their URL without doubt.
            return HttpSource(_check_url(text if rest.startswith("//") else rest))
        case "static":
            return StaticSource(tuple(parse_address(part.strip()) for part in _bounded(rest.split(","))))
        case "file":
            return FileSource(_check_path(rest))
        case _:
            raise InvalidBootstrap(f"not a bootstrap source: {text[:80]!r}; use {_SHAPES}")


def parse_address(text: str) -> BootstrapAddress:
    """Parse one address; raise InvalidBootstrap."""
    if len(text) <= MAXIMUM_ADDRESS_LENGTH:
        address = _parse_multiaddr(text) if text.startswith("/") else _parse_host_port(text)
        if address is not None:
            return address
    raise InvalidBootstrap(f"not a peer's address: {text[:80]!r}; use {_ADDRESS_SHAPES}")


def parse_lines(text: str) -> list[BootstrapAddress]:
    """Parse a file: one address a line, `#` starts a comment; raise InvalidBootstrap with the line's number."""
    addresses: list[BootstrapAddress] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            addresses.append(parse_address(content))
        except InvalidBootstrap as error:
            raise InvalidBootstrap(f"line {number}: {error}") from error
    return _bounded(addresses)


def parse_listing(body: bytes) -> list[BootstrapAddress]:
    """Parse an HTTP answer; raise InvalidBootstrap.

    The body is a JSON list, of address strings or of `{"ID": …, "Addrs": […]}` as Spegel's /id answers. Addresses
    of a kind that we cannot dial (QUIC, names) are left out, for another program's list may well hold some.
    """
    try:
        listing = json.loads(body)
    except (ValueError, RecursionError) as error:  # a deep nest of brackets ends in RecursionError
        raise InvalidBootstrap(f"the answer is not JSON: {body[:80]!r}") from error
    if not isinstance(listing, list):
        raise InvalidBootstrap(f"the answer is not a JSON list of peers: {body[:80]!r}")
    return _bounded([address for entry in listing for address in _parse_entry(entry)])


def _parse_entry(entry: object) -> list[BootstrapAddress]:
    if isinstance(entry, str):
        return _dialable([entry], "")
    if isinstance(entry, dict):
        peer_id, texts = entry.get("ID", ""), entry.get("Addrs", [])
        if isinstance(peer_id, str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return _dialable(texts, peer_id if _PEER_ID.fullmatch(peer_id) else "")
    raise InvalidBootstrap(f'a peer is an address or {{"ID": …, "Addrs": […]}}, not {str(entry)[:80]!r}')


def _dialable(texts: Iterable[str], peer_id: str) -> list[BootstrapAddress]:
    addresses = []
    for text in texts:
        try:
            address = parse_address(text)
        except InvalidBootstrap:
            continue
        addresses.append(BootstrapAddress(address.host, address.port, address.peer_id or peer_id))
    return addresses


def _parse_dns(text: str) -> DnsSource:
    name, colon, port_text = text.partition(":")
    port = _parse_port(port_text) if colon else None
    if not _NAME.fullmatch(name) or (colon and port is None):
        raise InvalidBootstrap(
            f"not a DNS name with or without a port: {text[:80]!r}; use dns:NAME or dns:NAME:PORT"
        )
    return DnsSource(name, port)


def _check_url(text: str) -> str:
    problem = f"not a URL of a list of peers: {text[:80]!r}; use http://HOST[:PORT]/PATH or https://…, without user"
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidBootstrap(problem)
    try:
        parts = urlsplit(text)
        usable = (
            parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError as error:
        raise InvalidBootstrap(problem) from error
    if not usable:
        raise InvalidBootstrap(problem)
    return text


def _check_path(text: str) -> str:
    if not text or "\0" in text:
        raise InvalidBootstrap(f"not a path: {text[:80]!r}; use file:PATH")
    return text


def _parse_host_port(text: str) -> BootstrapAddress | None:
    host, colon, port_text = text.rpartition(":")
    port = _parse_port(port_text)
    if not colon or port is None:
        return None
    if host.startswith("[") and host.endswith("]"):
        return _checked(host[1:-1], 6, port)
    return _checked(host, 4, port)


def _parse_multiaddr(text: str) -> BootstrapAddress | None:
    parts = text.split("/")
    if len(parts) not in (5, 7) or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return None
    peer_id = ""
    if len(parts) == 7:
        if parts[5] not in ("p2p", "ipfs") or not _PEER_ID.fullmatch(parts[6]):
            return None
        peer_id = parts[6]
    port = _parse_port(parts[4])
    return _checked(parts[2], 4 if parts[1] == "ip4" else 6, port, peer_id) if port is not None else None


def _checked(host: str, version: int, port: int, peer_id: str = "") -> BootstrapAddress | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version != version or address.is_unspecified or address.is_multicast or "%" in host:
        return None
    return BootstrapAddress(str(address), port, peer_id)


def _parse_port(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    port = int(text)
    return port if 0 < port <= 65535 else None


def _bounded(items: list[_T]) -> list[_T]:
    return items[:MAXIMUM_ADDRESSES]
