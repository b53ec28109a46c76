"""A thread that moves the bytes of fast transfers, and does nothing else.

A turn of trio's loop touches so much memory that it costs some hundred microseconds wherever the processor's caches
have gone cold since the last one, as they do while bytes come slowly: a third of a pull's cost over a slow link.
A turn here is a wait, two system calls and little Python. What is not plain moving goes back to trio: a source
that ends or brings nothing, a sink that takes nothing, a file that is not in memory, errors.
"""

from __future__ import annotations

import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Final

import trio

# How often jobs whose descriptors say nothing are looked at, in seconds.
_TICK: Final = 0.1
_CLOSE_TIMEOUT: Final = 5.0  # seconds; a turn waits for nothing but a page that was evicted a moment ago


class PumpUnavailable(Exception):
    """The thread, or what it waits with, cannot be had now, or not any more; the text says why.

    What the job has moved until then counts, and whoever gave it goes on without the pump.
    """


class Job(ABC):
    """A transfer that the pump moves forward. Its descriptors belong to the pump until `Pump.run` is over."""

    def __init__(self, wait_for: tuple[int, int]) -> None:
        """`wait_for`: a descriptor and its epoll events, at which a turn is due; a turn may change it."""
        self.wait_for = wait_for
        self.moved = 0  # bytes that the sink's socket has taken; may be read by any thread at any time
        self.moved_at = time.monotonic()  # when it took the last of them, or the job was made
        self.failure: Exception | None = None
        self.turning = threading.Lock()  # held for one turn, or to take the job away

    @abstractmethod
    def turn(self, now: float) -> bool:
        """Move what can be moved without waiting; False at the end. `now`: seconds of the monotonic clock."""

    @abstractmethod
    def is_due(self, now: float) -> bool:
        """Whether a turn is wanted although the descriptor is not ready."""


# What gives a job to the pump and returns when that is over; False where there is no pump any more to go on with.
Lend = Callable[[Job], Awaitable[bool]]


class Pump:
    """Runs jobs in one thread, which begins with the first of them. Its public methods are for trio's thread."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._wake = -1
        # Both are changed by both threads, by single steps only; who takes a job out of `_jobs` tells its task.
        self._jobs: dict[Job, trio.lowlevel.Task] = {}
        self._armed: dict[int, Job] = {}  # by the descriptor that is waited for
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._closed = threading.Event()

    def __len__(self) -> int:
        """How many jobs it has."""
        return len(self._jobs)

    async def run(self, job: Job) -> None:
        """Let the job have its turns until it says that it is over.

        Raise PumpUnavailable, before or between turns; whatever a turn raised. When this is over, however it ends,
        nobody else touches the job's descriptors any more, and what it has counted is exact.
        """
        self._begin(job, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            with job.turning:  # for one turn of this very job
                if self._jobs.pop(job, None) is None:  # it has just ended, and its task is about to be told
                    return trio.lowlevel.Abort.FAILED
                self._disarm(job.wait_for[0])
                return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if job.failure is not None:
            raise job.failure

    def close(self) -> None:
        """End the thread; nothing runs in it any more, and jobs that are under way are given back."""
        self._closed.set()
        if self._thread is None or self._epoll is None:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join(_CLOSE_TIMEOUT)
        self._epoll.close()
        self._epoll = None
        os.close(self._wake)

    def _begin(self, job: Job, task: trio.lowlevel.Task) -> None:
        if self._closed.is_set():
            raise PumpUnavailable("the pump is closed")
        with job.turning:
            try:
                if self._thread is None:
                    self._start()
                self._arm(job)
            except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
                raise PumpUnavailable(f"no thread to move bytes: {error}") from error
            self._jobs[job] = task
            # The thread may have ended meanwhile: who takes the job out again tells its task.
            if self._closed.is_set() and self._jobs.pop(job, None) is not None:
                raise PumpUnavailable("the pump has ended")
        if len(self._jobs) == 1:  # the thread sleeps without a limit
            os.eventfd_write(self._wake, 1)

    def _start(self) -> None:
        """All that the thread needs, or nothing; raise OSError, RuntimeError."""
        with ExitStack() as undo:
            epoll = undo.enter_context(select.epoll())
            wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, wake)
            epoll.register(wake, select.EPOLLIN)
            self._epoll, self._wake, self._token = epoll, wake, trio.lowlevel.current_trio_token()
            thread = threading.Thread(target=self._work, args=(epoll,), name="peili-pump", daemon=True)
            thread.start()
            self._thread = thread
            undo.pop_all()

    def _work(self, epoll: select.epoll) -> None:
        try:
            self._give_turns(epoll)
        finally:
            self._closed.set()
            for job in list(self._jobs):
                job.failure = PumpUnavailable("the pump has ended")
                self._end(job)

    def _give_turns(self, epoll: select.epoll) -> None:
        look_at = 0.0
        while not self._closed.is_set():
            for fileno, _ in epoll.poll(_TICK if self._jobs else None):
                # Where the descriptor has a new owner meanwhile this is a turn too many, which does no harm.
                if (job := self._armed.get(fileno)) is not None:
                    self._turn(job)
                elif fileno == self._wake:
                    with suppress(BlockingIOError):
                        os.eventfd_read(fileno)
            now = time.monotonic()
            if now >= look_at:
                look_at = now + _TICK
                for job in list(self._jobs):
                    if job.is_due(now):
                        self._turn(job)

    def _turn(self, job: Job) -> None:
        with job.turning:
            if job not in self._jobs:
                return
            before = job.wait_for
            try:
                goes_on = job.turn(time.monotonic())
            except Exception as error:  # noqa: BLE001 whatever it is belongs to this job, and the others go on
                job.failure, goes_on = error, False
            if goes_on and job.wait_for == before:
                return
            self._disarm(before[0])
            try:
                if goes_on:
                    self._arm(job)
            except OSError as error:
                job.failure, goes_on = PumpUnavailable(f"no way to wait: {error}"), False
            if not goes_on:
                self._end(job)

    def _end(self, job: Job) -> None:
        assert self._token is not None
        if (task := self._jobs.pop(job, None)) is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(trio.lowlevel.reschedule, task)

    def _arm(self, job: Job) -> None:
        assert self._epoll is not None
        fileno, events = job.wait_for
        self._epoll.register(fileno, events)
        self._armed[fileno] = job

    def _disarm(self, fileno: int) -> None:
        assert self._epoll is not None
        if self._armed.pop(fileno, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(fileno)
