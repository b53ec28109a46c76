"""Connecting to a peer."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final

import trio

from peili.http.errors import ConnectFailed, NoMeans
from peili.http.message import SocketAddress

# Bytes that a peer may have sent and we have not read (tcp(7)). Left to itself the kernel grows this to several
# megabytes for each connection.
RECEIVE_BUFFER: Final = 1024 * 1024
# The same until our own reader has shown that it is fast. A thousand slow ones with the large one bring the kernel
# to its limit (tcp_mem of tcp(7)), where it throttles and drops for all connections of the machine. Never set again
# on one that had the large one: what its peer was told that it may send would be dropped.
SMALL_RECEIVE_BUFFER: Final = 128 * 1024
# Which buffers stay as they were set: Linux 5.15 (include/uapi/asm-generic/socket.h).
_SO_BUF_LOCK: Final = 72
# What the kernel says where it is us who cannot: socket(2), connect(2).
_NO_MEANS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)


async def dial(address: SocketAddress, connect_timeout: float) -> trio.socket.SocketType:
    """A connection to this address, or to the first address of this name that answers.

    Raise ConnectFailed; NoMeans where the fault is our own.
    """
    with trio.move_on_after(connect_timeout):
        try:
            return await _dial(address)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a name at all
            if isinstance(error, OSError) and error.errno in _NO_MEANS:
                raise NoMeans(f"no connection to {address} can be made here: {error}") from error
            raise ConnectFailed(f"cannot connect to {address}: {error}") from error
    raise ConnectFailed(f"{address} did not answer in {connect_timeout:g} s")


async def _dial(address: SocketAddress) -> trio.socket.SocketType:
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"no address for {address.host}")
    for family, kind, protocol, _, name in found:
        sock = trio.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            size = _prepare_receive_buffer(sock)
            await sock.connect(name)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:  # cancelled
            sock.close()
            raise
        else:
            return sock
    raise failure


def _prepare_receive_buffer(sock: trio.socket.SocketType) -> int:
    """Before connecting, which fixes the window's scale: let it be as if the buffer might grow; return its size."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE_BUFFER)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
    except OSError:  # an older kernel: a small one would stay small
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return RECEIVE_BUFFER
    return SMALL_RECEIVE_BUFFER


def enlarge_receive_buffer(sock: trio.socket.SocketType) -> None:
    """Let the peer send further ahead."""
    with contextlib.suppress(OSError):  # it broke meanwhile: the next read will tell
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, RECEIVE_BUFFER)


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
