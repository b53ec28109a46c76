"""This node's own addresses: what to listen on, and what to tell the peers."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import trio

from peili.libp2p.multiaddr import Multiaddr
from peili.routing.kademlia.settings import KademliaSettings

# Documentation addresses (RFC 5737, RFC 3849): to "connect" a datagram socket there sends nothing, and tells
# which of our addresses a packet to the outside would carry.
_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on an IP address, or on both families for `::`. Raise OSError that names the address."""
    try:
        return await trio.open_tcp_listeners(port, host=None if host == "::" else host)
    except OSError as error:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise OSError(error.errno, f"the router cannot listen on {where}: {error.strerror or error}") from error


def is_loopback(settings: KademliaSettings) -> bool:
    """Whether this node lives on a loopback address, as in tests: then its peers may."""
    hosts = settings.advertise or (settings.listen_host,)
    return any(ipaddress.ip_address(host).is_loopback for host in hosts)


def bound_addresses(listeners: Iterable[trio.SocketListener]) -> list[tuple[str, int]]:
    """Where the listeners listen."""
    return [(str(name[0]), int(name[1])) for name in (listener.socket.getsockname() for listener in listeners)]


def told_addresses(bound: Sequence[tuple[str, int]], advertise: Sequence[str]) -> list[Multiaddr]:
    """What peers are told: the advertised addresses, else the bound ones, else what the routes say."""
    port = bound[0][1]
    if advertise:
        return [Multiaddr.of(host, port) for host in advertise]
    found = list[Multiaddr]()
    for host, bound_port in bound:
        if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            found += [Multiaddr.of(own, bound_port) for own in _routed_addresses(socket_family(host))]
        else:
            found.append(Multiaddr.of(host, bound_port))
    return list(dict.fromkeys(found))


def source_addresses(settings: KademliaSettings) -> list[str]:
    """The local addresses that our dials leave from: peers keep as ours only the address that they see."""
    wanted = [*settings.advertise, settings.listen_host]
    return [host for host in wanted if not ipaddress.ip_address(host).is_unspecified and _is_local(host)]


def _is_local(host: str) -> bool:
    """An advertised address need not be one of this machine (behind a translation of addresses)."""
    try:
        with socket.socket(socket_family(host), socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def socket_family(host: str) -> socket.AddressFamily:
    """The family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _routed_addresses(family: socket.AddressFamily) -> list[str]:
    for candidate, outside in _OUTSIDE:
        if candidate != family:
            continue
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                return [str(probe.getsockname()[0]).partition("%")[0]]
        except OSError:
            return []  # no route to the outside: peers see our address in our connections
    return []
