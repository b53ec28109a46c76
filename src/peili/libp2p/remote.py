"""The address of a socket's other end, in the form that Peili compares and keeps."""

from __future__ import annotations

import ipaddress

import trio


def remote_of(stream: trio.SocketStream) -> tuple[str, int] | None:
    """The peer's address, without zone and IPv4-mapped form; None where it is gone already."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return None
    return normal_address(host), port


def normal_address(host: str) -> str:
    """An IP address in its canonical form, without zone, IPv4 where it is IPv4-mapped."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)
