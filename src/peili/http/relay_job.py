"""What the pump moves from a peer's socket into a client's."""

from __future__ import annotations

import select
from typing import Final

from peili.http.errors import SourceEnded
from peili.http.pump import Job
from peili.http.source import CannotSplice, Source
from peili.http.stages import Stage, StagePool
from peili.http.stall import LOW_WATER, LOW_WATER_PATIENCE, MINIMUM_PROGRESS, next_low_water

# Seconds without progress of the source after which it is not the pump's any more.
_QUIET: Final = 0.3
# Seconds that a sink may take nothing while a stage is held for it.
HOLD: Final = 0.3
# A mark that is so near to the wanted one stays as it is.
_NEAR: Final = 0.25


class RelayJob(Job):
    """From a source into a sink through stages of the pool, until `count` bytes are there or something is unusual.

    These say at the end what was: `ended` (why the source gives no more), `waited` (for how many seconds, at least
    _QUIET, it brought next to nothing), `cannot_splice`. A sink that took nothing for HOLD seconds, or is closed,
    shows itself again to whoever goes on. `stage` is the caller's then, with what the sink has not taken.
    """

    def __init__(self, source: Source, sink: int, count: int, pool: StagePool, *, low_water: int) -> None:
        """`low_water`: to begin with."""
        super().__init__((source.fileno, select.EPOLLIN))
        self._source = source
        self._sink = sink
        self._left = count  # bytes to take
        self._pool = pool
        self._filled_at = self._window_at = self.moved_at
        self._window = 0  # bytes of it
        self._blocked_at = 0.0
        self.low_water = low_water
        self.stage: Stage | None = None
        self.ended: SourceEnded | None = None
        self.waited = 0.0
        self.cannot_splice = False

    def is_due(self, now: float) -> bool:
        """Bytes that are fewer than the mark have waited long enough, or the sink has been full for too long."""
        if self._blocked_at:
            return now - self._blocked_at > HOLD
        return now - self._filled_at > LOW_WATER_PATIENCE

    def turn(self, now: float) -> bool:
        """Empty the stage into the sink; take from the source before, where it was empty."""
        if self.stage is None:
            self._fill(now)
        return self._drain(now) and self._left > 0 and not (self.ended or self.waited or self.cannot_splice)

    def _fill(self, now: float) -> None:
        stage = self.stage = self._pool.acquire()
        taken = self._take(stage)
        self._window += taken
        if self._window >= MINIMUM_PROGRESS:
            self._window, self._window_at = 0, now
        if now - self._window_at > _QUIET:
            self.waited = now - self._window_at
        seconds = now - self._filled_at
        self.low_water = next_low_water(self.low_water, taken, seconds, expired=seconds > LOW_WATER_PATIENCE)
        self._filled_at = now
        self._left -= taken

    def _take(self, stage: Stage) -> int:
        try:
            return self._source.fill(stage, min(self._left, stage.size))
        except CannotSplice:
            self.cannot_splice = True
        except SourceEnded as error:
            self.ended = error
        return 0

    def _drain(self, now: float) -> bool:
        """Give the sink what it takes; False where it took nothing for too long, or is closed."""
        stage = self.stage
        assert stage is not None
        while stage.pending:
            more = stage.pending >= stage.size // 2 and self._left > 0
            try:
                given = stage.drain(self._sink, more=more)
            except BlockingIOError:
                return self._wait_for_sink(now)
            except OSError:
                return False
            self._blocked_at = 0.0
            self._pool.count(stage.way, given)
            self.moved_at = now
            self.moved += given
        self.stage = None
        self._pool.release(stage)
        self._wait_for_source(now)
        return True

    def _wait_for_sink(self, now: float) -> bool:
        self._blocked_at = self._blocked_at or now
        self.wait_for = (self._sink, select.EPOLLOUT)
        return now - self._blocked_at <= HOLD

    def _wait_for_source(self, now: float) -> None:
        if self.wait_for[0] == self._sink:  # the source was not waited for until now
            self.wait_for = (self._source.fileno, select.EPOLLIN)
            self._filled_at = self._window_at = now
        mark = min(self.low_water, LOW_WATER)
        if abs(mark - self._source.low_water) > mark * _NEAR or self._source.low_water > self._left:
            self._source.set_low_water(min(mark, self._left))
