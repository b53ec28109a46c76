"""From a peer's socket into a client's, inside the kernel: splice through a pipe (splice(2)).

Until a reader has shown that it is fast, nothing is taken from the source that the sink's socket has no room for:
it waits in the source's socket, where it costs no stage. So a stage is held only while bytes move, and a thousand
slow readers leave the pipes to the fast ones. What has left the source reaches the sink's socket before any failure
of the source is told, and the caller can go on from another source at exactly the byte that `moved` names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import trio

from peili.http.dial import SMALL_RECEIVE_BUFFER
from peili.http.errors import SourceEnded, SourceStalled
from peili.http.pace import FAST_BYTES, Pace
from peili.http.pump import Lend
from peili.http.relay_job import HOLD, RelayJob
from peili.http.source import CannotSplice, Source
from peili.http.stages import PutBy, Stage, StagePool, Way
from peili.http.stall import LOW_WATER, LOW_WATER_PATIENCE, StallWatch, next_low_water
from peili.http.transfer import CHUNK, Account, send_all, sink_closed, wait_for_sink

# With less room than this the sink is waited for. To wait is also what makes the kernel enlarge the send buffer of
# a reader that is fast (tcp_new_space).
_ROOM: Final = 64 * 1024
# What is taken at least when the sink's socket says that it is writable: its own idea of that may differ.
_LEAST: Final = 16 * 1024
# Seconds of waiting for a sink that say that it is the slow one.
_WAIT: Final = 0.1


class Relay:
    """One relay of `count` bytes; see Sink.relay for what it promises."""

    def __init__(
        self,
        source: Source,
        sink: int,
        count: int,
        *,
        account: Account,
        stall_timeout: float,
        write_timeout: float,
        pool: StagePool,
        pace: Pace,
        room: Callable[[], int],
        lend: Callable[[], Lend | None] = lambda: None,
    ) -> None:
        """`room`: how many bytes the sink's socket takes now, about. `account` tells `pace`, too.

        `lend`: the way to the pump, where there is one by now; it accounts for what it moves.
        """
        self._lend = lend
        self._plain = False  # the next turn is one without the pump
        self._pace = pace
        self._room = room
        self._source = source
        self._sink = sink
        self._count = count
        self._account = account
        self._write_timeout = write_timeout
        self._pool = pool
        self._watch = StallWatch(stall_timeout)
        self._stall_timeout = stall_timeout
        self._stage: Stage | None = None
        self._copying = False
        self._low_water = 1
        self._expired = False
        self._dry = False  # there is no use in asking the source again before it says that it has bytes
        self._filled_at = trio.current_time()
        self._since_turn = 0  # bytes since others had a turn on the event loop
        self._ended: SourceEnded | None = None  # why the source will give no more
        self._flow = 0  # bytes since the sink was waited for last
        self._runs_ahead = False
        self.moved = 0

    async def run(self) -> int:
        """Move the bytes; return their count."""
        try:
            await self._send_buffered()
            while self.moved < self._count:
                if (pump := self._way_to_pump()) is not None:
                    await self._be_pumped(pump)
                else:
                    self._fill(await self._find_room())
                    self._plain = False
                await self._drain()
                if self._ended is not None:
                    self._ended.moved = self.moved
                    raise self._ended
                if self._dry and self.moved < self._count:
                    await self._wait_for_source()
        finally:
            self._release()
            with contextlib.suppress(OSError):  # the source's socket is closed already
                self._source.set_low_water(1)
        return self._count

    @property
    def _pending(self) -> int:
        return 0 if self._stage is None else self._stage.pending

    async def _send_buffered(self) -> None:
        def account(count: int) -> None:
            self._source.take_buffered(count)
            self._sent(count, Way.WITH_HEAD)

        if buffered := self._source.buffered[: self._count]:
            await send_all(self._sink, buffered, account, self._write_timeout)

    def _way_to_pump(self) -> Lend | None:
        """None where the next turn is a plain one: for what is unusual, little, or about to be given up."""
        if self._plain or self._copying or self._watch.stalled or self._count - self.moved < CHUNK:
            return None
        return self._lend()

    async def _be_pumped(self, lend: Lend) -> None:
        """Have the pump move bytes until something is unusual, which the next turn, a plain one, deals with."""
        self._release()
        self._let_run_ahead()
        left = self._count - self.moved
        job = RelayJob(self._source, self._sink, left, self._pool, low_water=self._low_water)
        self._plain = True
        try:
            if not await lend(job):
                return
        finally:
            self.moved += job.moved
            self._stage = job.stage
        self._watch.arrived(job.moved + self._pending)
        self._watch.waited(job.waited)
        self._ended = job.ended
        self._copying = job.cannot_splice
        self._low_water, self._filled_at = job.low_water, trio.current_time()
        self._dry = job.waited > 0
        self._since_turn = 0

    async def _find_room(self) -> int:
        """How many bytes to take from the source at most; waits until the sink takes some."""
        wanted = self._count - self.moved
        if self._pace.fast:
            return wanted
        room = self._room()
        if room < min(_ROOM, wanted):
            self._release()
            started = trio.current_time()
            await wait_for_sink(self._sink, self._write_timeout)
            if trio.current_time() - started > _WAIT:
                self._flow = 0
            self._since_turn = 0
            room = max(self._room(), _LEAST)
        return min(room, wanted)

    def _fill(self, room: int) -> None:
        """Take what the source has, as far as the stage holds it, and the sink has room."""
        taken, short = 0, False
        stage = self._stage = self._stage or self._pool.acquire(copying=self._copying)
        while (wanted := min(room - taken, stage.size - stage.pending)) > 0:
            count = self._fill_once(stage, wanted)
            taken += count
            if count < wanted:
                short = True
                break
        self._watch.arrived(taken)
        now = trio.current_time()
        self._low_water = next_low_water(self._low_water, taken, now - self._filled_at, expired=self._expired)
        self._filled_at = now if taken else self._filled_at
        self._expired = False
        # A fast source has sent more by the time that this is in the sink: that saves a turn of the event loop.
        self._dry = short and (not taken or self._low_water < LOW_WATER)

    def _fill_once(self, stage: Stage, count: int) -> int:
        try:
            return self._source.fill(stage, count)
        except CannotSplice:
            self._copying = True  # from the next turn on
        except SourceEnded as error:
            self._ended = error
        return 0

    async def _drain(self) -> None:
        """Give the sink what is in the stage, all of it."""
        while (stage := self._stage) is not None and stage.pending:
            # Full segments only while the next bytes are sure to follow at once; never hold the last ones back.
            more = stage.pending >= stage.size // 2 and self._count - self.moved > stage.pending
            try:
                given = stage.drain(self._sink, more=more)
            except BlockingIOError:
                await self._wait_for_sink(stage)
                self._since_turn = 0
                continue
            except OSError as error:
                raise sink_closed(error) from error
            self._sent(given, stage.way)
            if self._since_turn >= CHUNK:
                self._since_turn = 0
                await trio.lowlevel.checkpoint()
        if isinstance(self._stage, PutBy):
            self._release()

    async def _wait_for_sink(self, stage: Stage) -> None:
        """Wait until the sink takes bytes; one that is slow to do so leaves the stage to others meanwhile."""
        deadline = trio.current_time() + self._write_timeout
        with trio.move_on_after(HOLD):
            await trio.lowlevel.wait_writable(self._sink)
            return
        self._stage = self._pool.put_by(stage)
        self._pace.stopped(trio.current_time())
        self._flow = 0
        await wait_for_sink(self._sink, self._write_timeout, deadline)

    def _sent(self, count: int, way: Way) -> None:
        self._pool.count(way, count)
        self.moved += count
        self._since_turn += count
        self._flow += count
        if not self._pace.fast and self._flow >= FAST_BYTES:
            self._pace.flowed(trio.current_time())
        self._account(count)
        if self._pace.fast:
            self._let_run_ahead()

    def _let_run_ahead(self) -> None:
        if not self._runs_ahead:
            self._runs_ahead = True
            self._source.let_run_ahead()

    async def _wait_for_source(self) -> None:
        self._release()
        if self._watch.stalled:
            raise SourceStalled(f"no progress from the source for {self._stall_timeout:g} s", self.moved)
        most = LOW_WATER if self._pace.fast else SMALL_RECEIVE_BUFFER // 2  # what its receive buffer holds for sure
        self._source.set_low_water(min(self._low_water, most, self._count - self.moved))
        patience = self._watch.left if self._low_water == 1 else min(self._watch.left, LOW_WATER_PATIENCE)
        started = trio.current_time()
        with trio.move_on_after(patience) as scope:
            await trio.lowlevel.wait_readable(self._source.fileno)
        self._watch.waited(trio.current_time() - started)
        self._expired = scope.cancelled_caught
        self._since_turn = 0

    def _release(self) -> None:
        if self._stage is not None:
            stage, self._stage = self._stage, None
            self._pool.release(stage)
