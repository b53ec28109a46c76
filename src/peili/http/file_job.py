"""What the pump moves from a file into a client's socket."""

from __future__ import annotations

import os
import select
from typing import Final

from peili.http.page_cache import STRETCH, is_cached
from peili.http.pump import Job
from peili.http.transfer import CHUNK

HOLD: Final = 5.0  # seconds that a sink may take nothing; nothing else is held for it


class FileJob(Job):
    """From an open file into a sink, as long as that needs no disk.

    `cold` says at the end that the next bytes are not in memory. What else was unusual (a sink that took nothing
    for HOLD seconds, or is closed, or a file that is too short) shows itself again to whoever goes on.
    """

    def __init__(self, sink: int, file: int, offset: int, count: int, *, warm_until: int) -> None:
        """`warm_until`: what comes before this offset is known to be in memory."""
        super().__init__((sink, select.EPOLLOUT))
        self._sink = sink
        self._file = file
        self._at = offset
        self._end = offset + count
        self._warm_until = warm_until
        self.cold = False

    def is_due(self, now: float) -> bool:
        """The sink has been full for too long."""
        return now - self.moved_at > HOLD

    def turn(self, now: float) -> bool:
        """Send as much as the sink takes, up to CHUNK."""
        if self._at >= self._warm_until:
            wanted = min(STRETCH, self._end - self._at)
            if not is_cached(self._file, self._at, wanted):
                self.cold = True
                return False
            self._warm_until = self._at + wanted
        try:
            sent = os.sendfile(self._sink, self._file, self._at, min(CHUNK, self._warm_until - self._at))
        except BlockingIOError:
            return not self.is_due(now)
        except OSError:
            return False
        self._at += sent
        self.moved_at = now
        self.moved += sent
        return sent > 0 and self._at < self._end
