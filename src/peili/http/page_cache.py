"""Whether reading a file needs a disk, and having that done elsewhere: sendfile waits for it on any socket."""

from __future__ import annotations

import errno
import os
import time
from typing import Final

import trio

STRETCH: Final = 1024 * 1024  # bytes that one look stands for
COLD_CHUNK: Final = 4 * 1024 * 1024  # bytes that one trip to a thread brings into the page cache
# The same where that needed no disk: a file system in memory, which cannot tell (tmpfs), so that it is a guess.
WARM_CHUNK: Final = 16 * COLD_CHUNK
WARM_SECONDS: Final = 0.0025  # that COLD_CHUNK takes at most where it needed no disk
COLD_STEP: Final = 64 * 1024  # distance of the bytes that are touched for that
COLD_READS: Final = 8  # threads that wait for a disk at the same time

_cold_reads = trio.CapacityLimiter(COLD_READS)


async def warm(file: int, offset: int, end: int) -> int:
    """See to it that the bytes from `offset` are in the page cache; return how many were looked after."""
    cached = is_cached(file, offset, min(STRETCH, end - offset))
    if cached:
        return STRETCH
    seconds = await trio.to_thread.run_sync(_read_ahead, file, offset, end, limiter=_cold_reads)
    return WARM_CHUNK if cached is None and seconds < WARM_SECONDS else COLD_CHUNK


def is_cached(file: int, offset: int, count: int) -> bool | None:
    """Whether the first and the last of these bytes can be read without a disk (preadv2(2), RWF_NOWAIT).

    The kernel reads ahead in long stretches, so the ends stand for the rest. None: the file system cannot tell.
    """
    byte = bytearray(1)
    try:
        os.preadv(file, [byte], offset, os.RWF_NOWAIT)
        os.preadv(file, [byte], offset + count - 1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError as error:  # a real one shows itself to whoever reads
        return None if error.errno == errno.EOPNOTSUPP else False
    return True


def _read_ahead(file: int, offset: int, end: int) -> float:
    """Bring COLD_CHUNK bytes into the page cache, and ask for as many again; return the seconds. For a thread."""
    started = time.monotonic()
    os.posix_fadvise(file, offset, min(2 * COLD_CHUNK, end - offset), os.POSIX_FADV_WILLNEED)
    last = min(end, offset + COLD_CHUNK) - 1
    for position in (*range(offset, last, COLD_STEP), last):
        os.pread(file, 1, position)
    return time.monotonic() - started
