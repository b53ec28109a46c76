"""Multiaddrs (multiformats/multiaddr): where a peer listens, as text and as bytes.

Only what a TCP peer needs is understood: an address or a name, a TCP port, a peer id, in this order. Others
(QUIC, WebSocket, relays) are InvalidMultiaddr, and whoever reads a list of them leaves those out.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from peili.libp2p import varint
from peili.libp2p.errors import Libp2pError
from peili.libp2p.peer_id import InvalidPeerId, PeerId

MAX_BYTES: Final = 512  # the longest name, a port and an id take less
_TCP, _P2P, _IP6ZONE = 6, 421, 42
_HOSTS: Final = {"ip4": 4, "ip6": 41, "dns": 53, "dns4": 54, "dns6": 55}
_HOST_NAMES: Final = {code: name for name, code in _HOSTS.items()}
_DNS_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


class InvalidMultiaddr(Libp2pError, ValueError):
    """The text or the bytes are no multiaddr of a TCP peer."""


@dataclass(frozen=True, slots=True)
class Multiaddr:
    """A place and who is there; each part may be missing, but not all of them.

    `protocol` is ip4, ip6, dns, dns4 or dns6 and says what `host` is, both empty where there is no host;
    IP addresses are in their canonical form without a zone.
    """

    protocol: str
    host: str
    port: int | None = None
    peer_id: PeerId | None = None

    def __post_init__(self) -> None:
        if self.host != _canonical(self.protocol, self.host):
            raise InvalidMultiaddr(f"not in canonical form: {self.host[:80]!r}")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise InvalidMultiaddr(f"a port is 0 to 65535, not {self.port}")
        if not self.protocol and self.port is None and self.peer_id is None:
            raise InvalidMultiaddr("an empty multiaddr")

    @classmethod
    def of(cls, host: str, port: int, peer_id: PeerId | None = None) -> Multiaddr:
        """The multiaddr of an IP address (a zone is dropped, an IPv4-mapped one is IPv4) or of a DNS name."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return cls("dns", _canonical("dns", host), port, peer_id)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return cls(f"ip{address.version}", str(address), port, peer_id)

    @classmethod
    def parse(cls, source: str | bytes) -> Multiaddr:
        """Parse text (`/ip4/10.0.0.1/tcp/5001/p2p/12D3…`) or bytes; raise InvalidMultiaddr on anything else."""
        if isinstance(source, str):
            return _parse_text(source)
        return _parse_bytes(source)

    def to_bytes(self) -> bytes:
        """The binary form, as messages carry it."""
        out = b""
        if self.protocol:
            out += varint.encode(_HOSTS[self.protocol])
            if self.protocol in ("ip4", "ip6"):
                out += ipaddress.ip_address(self.host).packed
            else:
                out += varint.encode(len(self.host)) + self.host.encode("ascii")
        if self.port is not None:
            out += bytes((_TCP,)) + self.port.to_bytes(2, "big")
        if self.peer_id is not None:
            raw = self.peer_id.to_bytes()
            out += varint.encode(_P2P) + varint.encode(len(raw)) + raw
        return out

    def __str__(self) -> str:
        text = f"/{self.protocol}/{self.host}" if self.protocol else ""
        text += f"/tcp/{self.port}" if self.port is not None else ""
        return text + (f"/p2p/{self.peer_id}" if self.peer_id is not None else "")


def _canonical(protocol: str, host: str) -> str:
    """The host as it is kept, checked against its protocol."""
    if protocol in ("ip4", "ip6"):
        try:
            text = host.partition("%")[0] if protocol == "ip6" else host
            return str(ipaddress.IPv4Address(text) if protocol == "ip4" else ipaddress.IPv6Address(text))
        except ValueError as error:
            raise InvalidMultiaddr(f"not an {protocol} address: {host[:80]!r}") from error
    if protocol in _HOSTS:
        if not _DNS_NAME.fullmatch(host):
            raise InvalidMultiaddr(f"not a DNS name: {host[:80]!r}")
        return host
    if protocol or host:
        raise InvalidMultiaddr(f"unknown multiaddr protocol {protocol[:40]!r}")
    return ""


class _Builder:
    """Takes the parts in their order, each at most once: host, port, peer id."""

    def __init__(self) -> None:
        self.protocol = self.host = ""
        self.port: int | None = None
        self.peer_id: PeerId | None = None

    def add_host(self, protocol: str, host: str) -> None:
        if self.protocol or self.port is not None or self.peer_id is not None:
            raise InvalidMultiaddr("a multiaddr of a TCP peer starts with its only host")
        self.protocol, self.host = protocol, _canonical(protocol, host)

    def add_port(self, port: int) -> None:
        if self.port is not None or self.peer_id is not None:
            raise InvalidMultiaddr("a multiaddr of a TCP peer has one port, before the peer id")
        self.port = port

    def add_peer_id(self, peer_id: PeerId) -> None:
        if self.peer_id is not None:
            raise InvalidMultiaddr("a multiaddr of a TCP peer has one peer id")
        self.peer_id = peer_id

    def build(self) -> Multiaddr:
        return Multiaddr(self.protocol, self.host, self.port, self.peer_id)


def _parse_text(text: str) -> Multiaddr:
    if len(text) > 2 * MAX_BYTES:
        raise InvalidMultiaddr(f"too long for a multiaddr: {text[:60]!r}…")
    first, *words = text.removesuffix("/").split("/")
    if first or len(words) % 2 or not words:
        raise InvalidMultiaddr(
            f"a multiaddr is /protocol/value…, for example /ip4/10.0.0.1/tcp/5001: {text[:80]!r}"
        )
    builder = _Builder()
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == "tcp":
            if not _PORT.fullmatch(value):
                raise InvalidMultiaddr(f"not a port: {value[:40]!r}")
            builder.add_port(int(value))
        elif name in ("p2p", "ipfs"):
            builder.add_peer_id(_peer_id(value))
        elif name == "ip6zone":
            if not value:
                raise InvalidMultiaddr("an empty zone")
        else:
            builder.add_host(name, value)
    return builder.build()


def _peer_id(source: str | bytes) -> PeerId:
    try:
        return PeerId.parse(source) if isinstance(source, str) else PeerId(source)
    except InvalidPeerId as error:
        raise InvalidMultiaddr(f"a multiaddr with a wrong peer id: {error}") from error


class _Bytes:
    """Reads a binary multiaddr from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def number(self) -> int:
        try:
            read = varint.decode(self.data, self.offset)
        except varint.InvalidVarint as error:
            raise InvalidMultiaddr(str(error)) from error
        if read is None:
            raise InvalidMultiaddr("a multiaddr that ends too early")
        number, self.offset = read
        return number

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise InvalidMultiaddr("a multiaddr that ends too early")
        taken, self.offset = self.data[self.offset : end], end
        return taken

    def text(self) -> str:
        try:
            return self.take(self.number()).decode("ascii")
        except UnicodeDecodeError as error:
            raise InvalidMultiaddr("a DNS name that is not ASCII") from error


def _parse_bytes(data: bytes) -> Multiaddr:
    if len(data) > MAX_BYTES:
        raise InvalidMultiaddr(f"a multiaddr of {len(data)} bytes")
    builder, reader = _Builder(), _Bytes(data)
    while reader.offset < len(data):
        code = reader.number()
        name = _HOST_NAMES.get(code)
        if name == "ip4":
            builder.add_host(name, str(ipaddress.IPv4Address(reader.take(4))))
        elif name == "ip6":
            builder.add_host(name, str(ipaddress.IPv6Address(reader.take(16))))
        elif name is not None:
            builder.add_host(name, reader.text())
        elif code == _TCP:
            builder.add_port(int.from_bytes(reader.take(2), "big"))
        elif code == _P2P:
            builder.add_peer_id(_peer_id(reader.take(reader.number())))
        elif code == _IP6ZONE:
            reader.take(reader.number())
        else:
            raise InvalidMultiaddr(f"unknown multiaddr protocol {code}")
    return builder.build()
