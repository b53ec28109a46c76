"""A file into a client's socket (sendfile)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

import trio

from peili.http.file_job import FileJob
from peili.http.page_cache import warm
from peili.http.pump import Lend
from peili.http.transfer import CHUNK, Account, sink_closed, wait_for_sink

COPY_SIZE: Final = 256 * 1024  # bytes read at once where sendfile does not work
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


async def send_file(
    fileno: int,
    file: int,
    offset: int,
    count: int,
    account: Account,
    write_timeout: float,
    lend: Callable[[], Lend | None] = lambda: None,
) -> None:
    """Send `count` bytes of the open file `file` from `offset`.

    `lend`: the way to the pump, where there is one by now; it accounts for what it moves. Raise SinkClosed; OSError
    where the file cannot be read or ends too early.
    """
    send = _sendfile
    end, warm_until = offset + count, offset
    plain = False  # the next turn is one without the pump
    while offset < end:
        if offset >= warm_until:
            # sendfile waits for the disk even on a non-blocking socket, and the event loop with it.
            warm_until = min(end, offset + await warm(file, offset, end))
        if not plain and send is _sendfile and end - offset >= CHUNK and (pump := lend()) is not None:
            job = FileJob(fileno, file, offset, end - offset, warm_until=warm_until)
            plain = not await pump(job) or not job.cold  # what else was unusual shows itself here, too
            offset += job.moved
            warm_until = offset if job.cold else max(offset, warm_until)
            continue
        plain = False
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


def _sendfile(fileno: int, file: int, offset: int, count: int) -> int:
    return os.sendfile(fileno, file, offset, count)


def _copyfile(fileno: int, file: int, offset: int, count: int) -> int:
    data = os.pread(file, min(count, COPY_SIZE), offset)
    return os.write(fileno, data) if data else 0
