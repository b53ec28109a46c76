from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peili.store import growth
from peili.store.growing import GrowingFile, Ingests
from peili.store.growth import GrowthWatch
from peili.store.inotify import CannotWatch, Event, Inotify, Mask
from tests.fakes.ingests import MEBIBYTE, FileIncoming, layer_of

DESCRIPTOR, CONTENT = layer_of("growth", 2 * MEBIBYTE)
NAMESPACE = "k8s.io"
SOON = 5.0  # seconds until a test is given up; what it waits for comes at once


@pytest.fixture
def only_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at without an event."""
    monkeypatch.setattr(growth, "RECHECK_SECONDS", 1000.0)
    monkeypatch.setattr(growth, "POLL_SECONDS", (1000.0, 1000.0))


@pytest.fixture
def incoming(tmp_path: Path) -> Iterator[FileIncoming]:
    incoming = FileIncoming(tmp_path, NAMESPACE, DESCRIPTOR, CONTENT)
    yield incoming
    incoming.close()


@asynccontextmanager
async def ingests() -> AsyncIterator[Ingests]:
    """With their watch running."""
    found = Ingests(NAMESPACE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.growth.run)
        await wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


def opened(found: Ingests, root: Path) -> GrowingFile:
    blob = found.open(root, DESCRIPTOR.digest)
    assert blob is not None
    return blob


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def kernel_watches() -> int:
    """How many watches this process's inotify instances have (proc(5), fdinfo)."""
    count = 0
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # the directory's own
            count += path.read_text().count("inotify wd:")
    return count


async def grow(incoming: FileIncoming) -> None:
    incoming.write_to(10)


@pytest.mark.usefixtures("only_events")
@pytest.mark.parametrize(
    ("change", "grown"), [(grow, True), (FileIncoming.finish, True), (FileIncoming.fail, False)]
)
async def test_each_change_wakes_at_once(
    tmp_path: Path, incoming: FileIncoming, change: Callable[[FileIncoming], Awaitable[None]], grown: bool
) -> None:
    async with ingests() as found:
        with opened(found, tmp_path) as blob:
            answers: list[bool] = []

            async def wait() -> None:
                with trio.fail_after(SOON):
                    answers.append(await blob.wait(0, 100))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                await change(incoming)
            assert answers == [grown, grown]


@pytest.mark.usefixtures("only_events")
async def test_a_commit_without_further_bytes_wakes_at_once(tmp_path: Path, incoming: FileIncoming) -> None:
    incoming.write_to(len(CONTENT))
    async with ingests() as found:
        with opened(found, tmp_path) as blob:
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with trio.fail_after(SOON):
                        assert not await blob.wait(len(CONTENT), 100)

                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                await incoming.finish()
            assert blob.committed()


@pytest.mark.parametrize(
    ("end", "thrown_away"),
    [(FileIncoming.finish, False), (FileIncoming.fail, True), (FileIncoming.kill, False)],
    ids=["committed", "failed", "left over"],
)
async def test_what_is_removed_in_the_moment_of_its_commit_was_not_thrown_away(
    tmp_path: Path, incoming: FileIncoming, end: Callable[[FileIncoming], Awaitable[None]], thrown_away: bool
) -> None:
    async with ingests() as found:
        with opened(found, tmp_path) as blob:
            assert not await blob.wait(0, 0)
            assert not blob.thrown_away()
            await end(incoming)  # never waits, so that nobody has looked when the file is removed
            path = tmp_path / "blobs" / DESCRIPTOR.digest.algorithm / DESCRIPTOR.digest.hex
            path.unlink(missing_ok=True)
            assert blob.vanished() is not (end is FileIncoming.kill)
            assert blob.thrown_away() is thrown_away


@pytest.mark.usefixtures("only_events")
async def test_growth_between_two_waits_is_not_missed(tmp_path: Path, incoming: FileIncoming) -> None:
    async with ingests() as found:
        with opened(found, tmp_path) as blob, trio.fail_after(SOON):
            for size in range(1, 6):
                incoming.write_to(size)
                assert await blob.wait(size - 1, 100)
            assert not await blob.wait(5, 0)


async def test_without_a_running_watch_files_are_polled_ever_more_rarely(
    tmp_path: Path, incoming: FileIncoming, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    real = GrowingFile.size

    def size(self: GrowingFile) -> int:
        nonlocal looks
        looks += 1
        return real(self)

    monkeypatch.setattr(GrowingFile, "size", size)
    mock_clock.autojump_threshold = 0
    with opened(Ingests(NAMESPACE), tmp_path) as blob:
        assert not await blob.wait(0, 10)
        assert trio.current_time() == pytest.approx(10)
        assert looks < 10 / growth.POLL_SECONDS[1] + 10
        incoming.write_to(1)
        started = trio.current_time()
        assert await blob.wait(0, 10)
        assert trio.current_time() == started


async def test_a_watched_file_is_looked_at_now_and_then_without_an_event(
    tmp_path: Path, incoming: FileIncoming, mock_clock: MockClock
) -> None:
    async with ingests() as found:
        with opened(found, tmp_path) as blob:
            # As a file system does that sends no events: the watch is there and stays silent.
            found.growth._dispatch = lambda *_: None  # type: ignore[method-assign]
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    assert await blob.wait(0, 100)

                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                incoming.write_to(1)
                await wait_all_tasks_blocked()
                assert nursery.child_tasks
                mock_clock.jump(growth.RECHECK_SECONDS)


async def test_watches_are_shared_and_end_with_the_last_file_that_is_closed(
    tmp_path: Path, incoming: FileIncoming
) -> None:
    async with ingests() as found:
        watched = kernel_watches()
        one, two = opened(found, tmp_path), opened(found, tmp_path)
        for blob in (one, two):
            assert found.growth.watches <= 1
            await blob.wait(0, 0)
            await blob.wait(0, 0)
        assert found.growth.watches == 1
        one.close()
        assert (found.growth.watches, kernel_watches()) == (1, watched + 1)
        two.close()
        two.close()
        assert (found.growth.watches, kernel_watches()) == (0, watched)
        incoming.write_to(5)
        with opened(found, tmp_path) as again:
            await again.wait(5, 0)
            assert found.growth.watches == 1


async def test_further_files_than_may_be_watched_are_polled(
    tmp_path: Path, incoming: FileIncoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MAXIMUM_WATCHES", 0)
    async with ingests() as found:
        with opened(found, tmp_path) as blob:
            assert not await blob.wait(0, 0)
            assert found.growth.watches == 0
            incoming.write_to(1)
            assert await blob.wait(0, SOON)


@pytest.mark.usefixtures("only_events")
async def test_lost_events_and_the_end_of_the_watch_wake_everybody(tmp_path: Path, incoming: FileIncoming) -> None:
    async with ingests() as found:
        blob = opened(found, tmp_path)
        await blob.wait(0, 0)
        pulse = blob._pulse
        assert pulse is not None
        lost = pulse.changed
        found.growth._dispatch(-1, Mask.Q_OVERFLOW)
        assert lost.is_set()
        last = pulse.changed
        assert not last.is_set()
    assert last.is_set()
    assert found.growth.watches == 0
    blob.close()


async def test_where_there_is_no_inotify_the_watch_ends_and_files_are_polled(
    tmp_path: Path, incoming: FileIncoming
) -> None:
    def none_left() -> Inotify:
        raise CannotWatch("no inotify instance left")

    found = Ingests(NAMESPACE)
    found.growth = GrowthWatch(none_left)
    await found.growth.run()
    incoming.write_to(1)
    with opened(found, tmp_path) as blob:
        assert await blob.wait(0, SOON)


async def test_a_file_that_cannot_be_watched_is_polled(
    tmp_path: Path, incoming: FileIncoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_watch_left(*_: object) -> int:
        raise CannotWatch("no inotify watch left")

    async with ingests() as found:
        monkeypatch.setattr(Inotify, "add", no_watch_left)
        incoming.write_to(1)
        with opened(found, tmp_path) as blob:
            assert await blob.wait(0, SOON)


async def test_events_of_files_that_nobody_watches_any_more_do_nothing() -> None:
    watch = GrowthWatch()
    for event in (Event(17, Mask.IGNORED), Event(-1, Mask.Q_OVERFLOW)):
        watch._dispatch(event.watch, event.mask)
    assert watch.watches == 0


async def test_cancelled_waiting_leaves_nothing_behind(tmp_path: Path, incoming: FileIncoming) -> None:
    before = open_descriptors()
    async with ingests() as found:
        with opened(found, tmp_path) as blob:
            with trio.move_on_after(0.01):
                await blob.wait(0, 100)
        assert found.growth.watches == 0
    assert open_descriptors() == before


async def test_a_closed_blob_says_so(tmp_path: Path, incoming: FileIncoming) -> None:
    blob = opened(Ingests(NAMESPACE), tmp_path)
    blob.close()
    blob.close()
    with pytest.raises(ValueError, match="closed"):
        blob.size()
