from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import ClassVar

import pytest
import trio
import trio.testing

from peili.store import inotify
from peili.store.inotify import (
    WALK_AGAIN,
    CannotWatch,
    Event,
    Inotify,
    InvalidEvents,
    Mask,
    Polling,
    open_watcher,
    parse_events,
)

PATIENCE = 20.0


async def wait_event(watcher: Inotify, name: str, mask: Mask) -> Event:
    """The first event with this name and any of these bits."""
    with trio.fail_after(PATIENCE):
        async for batch in watcher:
            for event in batch:
                if event.name == name and event.mask & mask:
                    return event
    raise AssertionError("a watcher never ends")


async def test_what_happens_in_a_directory_is_told(tmp_path: Path) -> None:
    with Inotify() as watcher:
        watch = watcher.add(tmp_path)
        file = tmp_path / "file"
        with file.open("wb") as writer:
            assert (await wait_event(watcher, "file", Mask.CREATE)).watch == watch
            writer.write(b"content")
        await wait_event(watcher, "file", Mask.CLOSE_WRITE)
        file.rename(tmp_path / "other")
        await wait_event(watcher, "other", Mask.MOVED_TO)
        (tmp_path / "other").unlink()
        await wait_event(watcher, "other", Mask.DELETE)
        (tmp_path / "sub").mkdir()
        assert (await wait_event(watcher, "sub", Mask.CREATE)).mask & Mask.ISDIR


async def test_a_reader_waits_for_what_comes_later(tmp_path: Path) -> None:
    with Inotify() as watcher:
        watcher.add(tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_event, watcher, "file", Mask.CREATE)
            await trio.testing.wait_all_tasks_blocked()
            (tmp_path / "file").touch()


async def test_two_directories_tell_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with Inotify() as watcher:
        watches = watcher.add(one), watcher.add(two)
        assert watcher.add(one) == watches[0]
        (two / "file").touch()
        assert (await wait_event(watcher, "file", Mask.CREATE)).watch == watches[1]


async def test_a_directory_that_goes_away_has_to_be_walked_again(tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    with Inotify() as watcher:
        watcher.add(directory)
        directory.rmdir()
        event = await wait_event(watcher, "", Mask.DELETE_SELF)
        assert event.walk_again


async def test_a_directory_that_is_moved_has_to_be_walked_again(tmp_path: Path) -> None:
    directory = tmp_path / "here"
    directory.mkdir()
    with Inotify() as watcher:
        watcher.add(directory)
        directory.rename(tmp_path / "there")
        assert (await wait_event(watcher, "", Mask.MOVE_SELF)).walk_again


def test_an_overflow_has_to_be_walked_again() -> None:
    overflow = inotify._HEADER.pack(-1, Mask.Q_OVERFLOW, 0, 0)
    assert parse_events(overflow) == [WALK_AGAIN]
    assert WALK_AGAIN.walk_again
    assert not Event(1, Mask.DELETE, "file").walk_again


async def test_an_overflow_of_the_real_queue_is_seen(tmp_path: Path) -> None:
    length = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if length > 20_000:
        pytest.skip(f"the queue of this machine holds {length} events: too many to make")
    file = tmp_path / "file"
    with Inotify() as watcher:
        watcher.add(tmp_path)
        for _ in range(length // 2 + 1):  # a creation and a deletion are never merged
            file.touch()
            file.unlink()
        await wait_event(watcher, "", Mask.Q_OVERFLOW)


def test_names_are_what_the_file_system_has() -> None:
    name = b"n\xff".ljust(16, b"\0")
    events = inotify._HEADER.pack(3, 0x100, 7, 16) + name + inotify._HEADER.pack(4, 0x200, 0, 0)
    assert parse_events(events) == [Event(3, Mask.CREATE, os.fsdecode(b"n\xff")), Event(4, Mask.DELETE)]


@pytest.mark.parametrize("cut", [1, 15, 17, 31])
def test_cut_off_events_are_refused(cut: int) -> None:
    whole = inotify._HEADER.pack(3, 0x100, 0, 16) + b"name".ljust(16, b"\0")
    assert parse_events(whole)
    with pytest.raises(InvalidEvents):
        parse_events(whole[:cut])


async def test_a_directory_that_cannot_be_watched_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Inotify() as watcher:
        with pytest.raises(CannotWatch, match="missing"):
            watcher.add(tmp_path / "missing")
        with pytest.raises(CannotWatch, match="not a directory"):
            watcher.add(tmp_path / "file")
    with pytest.raises(CannotWatch, match="missing"):
        Polling().add(tmp_path / "missing")


async def test_a_closed_watcher_wakes_its_reader(tmp_path: Path) -> None:
    watcher = Inotify()
    watcher.add(tmp_path)
    async with trio.open_nursery() as nursery:

        async def reader() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await anext(watcher)

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        watcher.close()
        watcher.close()


class Failing:
    """A C library whose calls all fail with this error."""

    number: ClassVar[int] = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def inotify_init1(self, *_: object) -> int:
        ctypes.set_errno(self.number)
        return -1

    inotify_add_watch = inotify_init1


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EMFILE, "max_user_instances"), (errno.ENFILE, "file-max"), (errno.EPERM, "Operation not permitted")],
)
def test_without_an_instance_directories_are_polled_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    monkeypatch.setattr(Failing, "number", number)
    monkeypatch.setattr(ctypes, "CDLL", Failing)
    watcher, reason = open_watcher()
    assert isinstance(watcher, Polling)
    assert advice in reason


def test_a_system_without_inotify_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    watcher, reason = open_watcher()
    assert isinstance(watcher, Polling)
    assert "no inotify" in reason


async def test_too_many_watches_say_which_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Inotify() as watcher:
        monkeypatch.setattr(Failing, "number", errno.ENOSPC)
        monkeypatch.setattr(ctypes, "CDLL", Failing)
        with pytest.raises(CannotWatch, match="max_user_watches"):
            watcher.add(tmp_path)


async def test_polling_asks_for_a_walk_again_and_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with Polling(7.0) as watcher:
        watcher.add(tmp_path)
        assert [await anext(watcher), await anext(watcher)] == [[WALK_AGAIN]] * 2
        assert trio.current_time() == pytest.approx(14.0)
