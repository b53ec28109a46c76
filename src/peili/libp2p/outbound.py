"""The TCP connection of a dial, from the right one of our addresses."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from typing import Final

import trio

FAMILY_PATIENCE: Final = 1.0  # seconds for one address family where another one can be tried after it


async def open_outbound(host: str, port: int, sources: Sequence[str]) -> trio.SocketStream:
    """Connect to an IP address or a name, from the one of `sources` (local IP addresses) that has its family.

    A name is resolved first: a socket that is bound to an address of one family reaches no address of the other.
    Families that we have an address for go first; for another one the kernel chooses it. Raise OSError; ValueError
    for a name that IDNA cannot encode, or a port that is none.
    """
    usable = await _usable_sources(host, port, sources)
    problem = OSError("the name has no address")
    for number, source in enumerate(usable, start=1):
        try:
            with trio.move_on_after(math.inf if number == len(usable) else FAMILY_PATIENCE):
                if source is None:
                    return await trio.open_tcp_stream(host, port)
                return await trio.open_tcp_stream(host, port, local_address=source)
            problem = OSError(f"no answer within {FAMILY_PATIENCE:g} s")
        except OSError as error:
            problem = error
    raise problem


async def _usable_sources(host: str, port: int, sources: Sequence[str]) -> list[str | None]:
    """The first source of each family that the host has, in the system's order; None: the kernel's choice."""
    if not sources:
        return [None]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = dict.fromkeys(entry[0] for entry in found)
    usable = [next((one for one in sources if _family(one) == family), None) for family in families]
    return sorted(dict.fromkeys(usable), key=lambda source: source is None)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
