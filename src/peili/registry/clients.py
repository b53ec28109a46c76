"""Who may ask without the proof of a member: this node's containerd, told by its address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ANY_PORT = 9  # nothing is sent there


def is_own_address(host: str) -> bool:
    """Whether an IP address (without a zone) is one of this machine's, as this network namespace sees it.

    Asks the kernel with which address it would speak to that one: an address of our own is spoken to with itself.
    (To bind to it would tell as much, but not where net.ipv4.ip_nonlocal_bind is set, as kube-proxy may.)
    """
    if ipaddress.ip_address(host).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))
            return str(probe.getsockname()[0]).partition("%")[0] == host
    except OSError:
        return False  # no route there, so no address of ours


@dataclass(frozen=True, slots=True)
class ClientNetworks:
    """The addresses that clients may come from: this machine's own, always, and those in `networks`."""

    networks: tuple[Network, ...] = ()
    is_own: Callable[[str], bool] = is_own_address

    def allows(self, host: str) -> bool:
        """Whether a client at this IP address may ask; anything else than an address may not."""
        host = host.partition("%")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks) or self.is_own(host)
