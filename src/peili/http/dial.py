"""Connecting to a peer."""

from __future__ import annotations

import socket
from typing import Final

import trio

from peili.http.errors import ConnectFailed
from peili.http.message import SocketAddress

# Bytes that a peer may have sent and we have not read (tcp(7)); set before connecting, for the window's scale.
# Left to itself the kernel grows this to several megabytes for each connection.
RECEIVE_BUFFER: Final = 1024 * 1024


async def dial(address: SocketAddress, connect_timeout: float) -> trio.socket.SocketType:
    """A connection to this address, or to the first address of this name that answers; raise ConnectFailed."""
    with trio.move_on_after(connect_timeout):
        try:
            return await _dial(address)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a name at all
            raise ConnectFailed(f"cannot connect to {address}: {error}") from error
    raise ConnectFailed(f"{address} did not answer in {connect_timeout:g} s")


async def _dial(address: SocketAddress) -> trio.socket.SocketType:
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"no address for {address.host}")
    for family, kind, protocol, _, name in found:
        sock = trio.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            await sock.connect(name)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:  # cancelled
            sock.close()
            raise
        else:
            return sock
    raise failure


def is_quiet(sock: trio.socket.SocketType) -> bool:
    """Whether a kept connection is still open and nothing was said on it: fit for another request."""
    plain = socket.socket(fileno=sock.fileno())
    try:
        plain.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        plain.detach()
    return False
