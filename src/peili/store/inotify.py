"""Watching directories: Linux's inotify(7) on trio, and polling where that is not to be had.

Both are a Watcher. An event is a hint that something changed under a name; whoever gets it looks at the file,
so that late, merged and repeated events do no harm. Where events were lost, one says so: `walk_again`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import trio

READ_BYTES = 64 * 1024  # about a thousand events with names of a sha256's length
POLL_SECONDS = 5.0  # how often a Polling watcher asks for a walk
_HEADER = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len; then len bytes of name


class Mask(IntFlag):
    """What happened (inotify.h); several may come together."""

    MODIFY = 0x2
    ATTRIB = 0x4
    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000
    ISDIR = 0x40000000


# What changes which files a directory holds, or ends one's writing.
DIRECTORY = (
    Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CREATE | Mask.CLOSE_WRITE | Mask.DELETE | Mask.DELETE_SELF
    | Mask.MOVE_SELF | Mask.ONLYDIR
)  # fmt: skip
_LOST = Mask.Q_OVERFLOW | Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT


class InvalidEvents(ValueError):
    """The bytes are not whole inotify events."""


class CannotWatch(Exception):
    """This directory cannot be watched; the text says why and what the operator can do."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something changed under `name` in the directory of `watch` (what `add` returned; -1 for all of them)."""

    watch: int
    mask: Mask
    name: str = ""

    @property
    def walk_again(self) -> bool:
        """Whether events were or will be lost: the directories have to be watched and walked anew."""
        return bool(self.mask & _LOST)


WALK_AGAIN = Event(-1, Mask.Q_OVERFLOW)


class Watcher(Protocol):
    """An endless async iterator of batches of events; a context manager that ends it."""

    def add(self, directory: Path, mask: Mask = DIRECTORY) -> int:
        """Watch a directory (again changes nothing); return what its events carry. Raise CannotWatch."""
        ...

    def close(self) -> None:
        """End it; again does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> list[Event]: ...


def open_watcher(poll_seconds: float = POLL_SECONDS) -> tuple[Watcher, str]:
    """An inotify watcher, or a polling one and the reason why."""
    try:
        return Inotify(), ""
    except CannotWatch as error:
        return Polling(poll_seconds), str(error)


def parse_events(buffer: bytes) -> list[Event]:
    """Parse what a read of an inotify descriptor gave: whole events, packed; raise InvalidEvents."""
    events, at = [], 0
    while at < len(buffer):
        if len(buffer) - at < _HEADER.size:
            raise InvalidEvents("an event cut off in its header")
        watch, mask, _cookie, length = _HEADER.unpack_from(buffer, at)
        at += _HEADER.size
        if len(buffer) - at < length:
            raise InvalidEvents("an event cut off in its name")
        name = buffer[at : at + length].partition(b"\0")[0]  # padded with zeros to align the next event
        events.append(Event(watch, Mask(mask), os.fsdecode(name)))
        at += length
    return events


class _Base:
    """A watcher is its own iterator and context manager."""

    __slots__ = ()

    def close(self) -> None:
        """End it; again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self


class Inotify(_Base):
    """Events of the kernel. Raises CannotWatch where the system gives no inotify instance."""

    __slots__ = ("_fileno",)

    def __init__(self) -> None:
        self._fileno = _call("inotify_init1", None, os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, directory: Path, mask: Mask = DIRECTORY) -> int:
        """Watch a directory (again changes nothing); return what its events carry. Raise CannotWatch."""
        return _call("inotify_add_watch", directory, self._fileno, os.fsencode(directory), int(mask))

    def remove(self, watch: int) -> None:
        """End a watch; one that ended by itself is no error."""
        with contextlib.suppress(CannotWatch):
            _call("inotify_rm_watch", None, self._fileno, watch)

    async def __anext__(self) -> list[Event]:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._read()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fileno)

    def waiting(self) -> list[Event]:
        """The events that have not been read yet, none where there are none; whoever iterates does not get them."""
        try:
            return self._read()
        except BlockingIOError:
            return []

    def _read(self) -> list[Event]:
        return parse_events(os.read(self._fileno, READ_BYTES))

    def close(self) -> None:
        """Give the descriptor back; whoever waits for it gets trio.ClosedResourceError."""
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            trio.lowlevel.notify_closing(fileno)
            os.close(fileno)


class Polling(_Base):
    """Asks for a walk again and again: for systems without inotify."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float = POLL_SECONDS) -> None:
        self._seconds = seconds

    def add(self, directory: Path, mask: Mask = DIRECTORY) -> int:
        """Check that the directory is there; raise CannotWatch. Always -1: its events are of no directory."""
        if not directory.is_dir():
            raise CannotWatch(f"cannot watch {directory}: it is missing or not a directory")
        return -1

    async def __anext__(self) -> list[Event]:
        await trio.sleep(self._seconds)
        return [WALK_AGAIN]


_ADVICE = {
    ("inotify_init1", errno.EMFILE): "no inotify instance left: raise fs.inotify.max_user_instances with sysctl",
    ("inotify_init1", errno.ENFILE): "the system has no file descriptor left: raise fs.file-max with sysctl",
    ("inotify_add_watch", errno.ENOSPC): "no inotify watch left: raise fs.inotify.max_user_watches with sysctl",
    ("inotify_add_watch", errno.ENOENT): "the directory is missing",
    ("inotify_add_watch", errno.ENOTDIR): "it is not a directory",
    ("inotify_add_watch", errno.EACCES): "the directory is not readable for this user",
}


def _call(function: str, directory: Path | None, *arguments: int | bytes) -> int:
    """Call the C library; raise CannotWatch with what to do where it says no."""
    try:
        called = getattr(ctypes.CDLL(None, use_errno=True), function)
    except AttributeError as error:
        raise CannotWatch("this system has no inotify: directories are polled") from error
    result = int(called(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        advice = _ADVICE.get((function, number), os.strerror(number))
        raise CannotWatch(f"cannot watch {directory}: {advice}" if directory else f"cannot watch files: {advice}")
    return result
