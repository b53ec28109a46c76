"""Bytes into a client's socket: from memory, from a file (sendfile). Non-blocking sockets, driven by readiness.

`account` is told of every byte when the socket has taken it, so that the count is exact however a call ends.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

import trio

from peili.http.errors import SinkClosed

CHUNK: Final = 1024 * 1024  # bytes between two turns of the event loop, at most
COLD_CHUNK: Final = 4 * 1024 * 1024  # bytes that one trip to a thread brings into the page cache
COLD_STEP: Final = 64 * 1024  # distance of the bytes that are touched for that
COLD_READS: Final = 8  # threads that wait for a disk at the same time
COPY_SIZE: Final = 256 * 1024  # bytes read at once where sendfile does not work

Account = Callable[[int], None]
Data = bytes | bytearray | memoryview

_cold_reads = trio.CapacityLimiter(COLD_READS)
# What a socket says when its peer is gone (connect(2), send(2), tcp(7)); anything else is the file's trouble.
_GONE: Final = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
    }
)
# What sendfile says where it does not work on this file (sendfile(2)).
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


async def send_all(fileno: int, data: Data, account: Account, write_timeout: float) -> None:
    """Send bytes from memory; raise SinkClosed."""
    view = memoryview(data)
    while view:
        try:
            sent = os.write(fileno, view[:CHUNK])
        except BlockingIOError:
            await wait_for_sink(fileno, write_timeout)
            continue
        except OSError as error:
            raise sink_closed(error) from error
        account(sent)
        view = view[sent:]
    await trio.lowlevel.checkpoint()


async def send_together(fileno: int, head: bytes, body: Data, account: Account, write_timeout: float) -> None:
    """Send a head and its body in one piece, without joining them in memory (writev(2)); raise SinkClosed.

    A reader that stops would keep the copy in memory as long as the body itself.
    """
    view = memoryview(body)
    try:
        sent = os.writev(fileno, (head, view[:CHUNK]))
    except BlockingIOError:
        sent = 0
    except OSError as error:
        raise sink_closed(error) from error
    account(sent)
    if sent < len(head):
        await send_all(fileno, memoryview(head)[sent:], account, write_timeout)
    await send_all(fileno, view[max(0, sent - len(head)) :], account, write_timeout)


async def send_file(
    fileno: int, file: int, offset: int, count: int, account: Account, write_timeout: float
) -> None:
    """Send `count` bytes of the open file `file` from `offset`.

    Raise SinkClosed; OSError where the file cannot be read or ends too early.
    """
    send = _sendfile
    end, warm_until = offset + count, offset
    while offset < end:
        if offset >= warm_until:
            # sendfile waits for the disk even on a non-blocking socket, and the event loop with it.
            warm_until = min(end, offset + await _warm(file, offset, end))
        wanted = min(CHUNK, warm_until - offset)
        try:
            sent = send(fileno, file, offset, wanted)
        except BlockingIOError:
            await wait_for_sink(fileno, write_timeout)
            continue
        except OSError as error:
            if error.errno in _GONE:
                raise sink_closed(error) from error
            if send is _copyfile or error.errno not in _NO_SENDFILE:
                raise
            send = _copyfile
            continue
        if sent == 0:
            raise OSError(errno.EIO, f"the file ends {end - offset} bytes before its promised length")
        account(sent)
        offset += sent
        if sent < wanted and offset < end:  # it is full: to try once more only to be told so costs as much again
            await wait_for_sink(fileno, write_timeout)
        else:
            await trio.lowlevel.checkpoint()


async def wait_for_sink(fileno: int, write_timeout: float, deadline: float | None = None) -> None:
    """Wait until a socket takes bytes again; raise SinkClosed when it does not in time.

    `deadline`: by trio's clock, where a part of that time is over.
    """
    with trio.move_on_at(trio.current_time() + write_timeout if deadline is None else deadline):
        await trio.lowlevel.wait_writable(fileno)
        return
    raise SinkClosed(f"the client took nothing for {write_timeout:g} s")


def sink_closed(error: OSError) -> SinkClosed:
    """What a failure to write into a client's socket is to the caller."""
    return SinkClosed(f"the client went away: {error.strerror or error}")


def _sendfile(fileno: int, file: int, offset: int, count: int) -> int:
    return os.sendfile(fileno, file, offset, count)


def _copyfile(fileno: int, file: int, offset: int, count: int) -> int:
    data = os.pread(file, min(count, COPY_SIZE), offset)
    return os.write(fileno, data) if data else 0


async def _warm(file: int, offset: int, end: int) -> int:
    """See to it that the bytes from `offset` are in the page cache; return how many were looked after."""
    if is_cached(file, offset, min(CHUNK, end - offset)):
        return CHUNK
    await trio.to_thread.run_sync(_read_ahead, file, offset, end, limiter=_cold_reads)
    return COLD_CHUNK


def is_cached(file: int, offset: int, count: int) -> bool:
    """Whether the first and the last of these bytes can be read without a disk (preadv2(2), RWF_NOWAIT).

    The kernel reads ahead in long stretches, so the ends stand for the rest. Where the file system cannot tell,
    the answer is no.
    """
    byte = bytearray(1)
    try:
        os.preadv(file, [byte], offset, os.RWF_NOWAIT)
        os.preadv(file, [byte], offset + count - 1, os.RWF_NOWAIT)
    except OSError:  # EAGAIN: not cached. EOPNOTSUPP: cannot tell. A real error shows itself to whoever reads
        return False
    return True


def _read_ahead(file: int, offset: int, end: int) -> None:
    """Bring COLD_CHUNK bytes into the page cache, and ask for as many again. Runs in a thread."""
    os.posix_fadvise(file, offset, min(2 * COLD_CHUNK, end - offset), os.POSIX_FADV_WILLNEED)
    last = min(end, offset + COLD_CHUNK) - 1
    for position in (*range(offset, last, COLD_STEP), last):
        os.pread(file, 1, position)
