"""A content store that is an OCI image layout directory (image-spec, image-layout.md), as skopeo, buildah, `ctr
export` and many build tools write it.

Changes come by inotify; a walk at intervals repairs what events missed, and does all the work where there is no
inotify. An event is only a hint: the file it names is looked at again. Files are read in threads, so that a slow
disk holds up nobody; only the opening of a blob that is served happens at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import trio

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.store.files import blob_name, blob_path, open_blob
from peili.store.growing import LAYOUT_NAMESPACE, GrowingFile, Ingests
from peili.store.index import Evidence, StoreIndex, Unread
from peili.store.inotify import CannotWatch, Event, Mask, Watcher, open_watcher
from peili.store.layout_files import (
    Found,
    algorithms,
    check_layout,
    digest_of_name,
    list_blobs,
    look_at,
    look_at_all,
    read_images,
    read_manifests,
)
from peili.store.protocol import Blob, Change, Ingest, NotInStore, StoreError, StoreStatistics

WALK_SECONDS = 60.0  # between walks that repair what events missed
SETTLE_SECONDS = 2.0  # a file that no manifest names and whose end of writing nobody saw is whole when this old
GATHER_SECONDS = 0.05  # events are handled together, at most this often
REWALK_SECONDS = 0.5  # at least, between walks that events ask for
RETRY_SECONDS = (0.2, 5.0)  # first and longest wait for a directory that cannot be read
READ_BATCH = 16  # manifests read by one call in a thread
_WHOLE = Mask.CLOSE_WRITE | Mask.MOVED_TO
_NOT_WATCHED = -2
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Watched:
    """The watches: of the layout's directory, of its blobs/, and of each algorithm's directory there."""

    root: int
    blobs: int
    algorithms: dict[int, str]

    def needs_walk(self, event: Event) -> bool:
        """Whether events were lost, or the directories themselves changed."""
        if event.watch == self.blobs:
            return event.walk_again or bool(event.mask & Mask.ISDIR)
        return event.walk_again or (event.watch == self.root and event.name in ("blobs", "oci-layout"))

    def renames(self, event: Event) -> bool:
        """Whether index.json is another one now; while it is only being written it would look broken."""
        return event.watch == self.root and event.name == "index.json" and not event.mask & Mask.CREATE

    def digest(self, event: Event) -> Digest | None:
        """The blob that the event is about, or None."""
        algorithm = self.algorithms.get(event.watch)
        return digest_of_name(algorithm, event.name) if algorithm is not None else None


class LayoutStore:
    """A Store over an OCI image layout directory; see peili.store.protocol.Store."""

    def __init__(
        self,
        directory: Path,
        *,
        walk_seconds: float = WALK_SECONDS,
        watch: Callable[[], tuple[Watcher, str]] = open_watcher,
    ) -> None:
        self._directory = directory
        self._walk_seconds = walk_seconds
        self._watch = watch
        self._index = StoreIndex()
        self._ingests = Ingests(LAYOUT_NAMESPACE)
        self._synchronised = False
        self._problem = f"{directory} is not read yet"
        self._polled = ""  # why there is no inotify
        self._walk_at = 0.0  # on trio's clock
        self._limiter = trio.CapacityLimiter(2)  # one call at a time, and one abandoned on a stuck disk

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the index current until cancelled; started after the first whole walk."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ingests.growth.run)
            await self._keep_current(task_status)

    async def _keep_current(self, task_status: trio.TaskStatus[None]) -> None:
        retry = RETRY_SECONDS[0]
        while True:
            try:
                watcher, self._polled = self._watch()
                with watcher:
                    watched = await self._walk(watcher)
                    self._problem, retry = "", RETRY_SECONDS[0]
                    if not self._synchronised:
                        self._synchronised = True
                        task_status.started()
                    await self._follow(watcher, watched)
            except (StoreError, CannotWatch) as error:
                self._problem = str(error)
                await trio.sleep(retry)
                retry = min(2 * retry, RETRY_SECONDS[1])

    def descriptor(self, digest: Digest) -> Descriptor | None:
        """What is held under this digest, or None."""
        return self._index.descriptor(digest)

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What this reference's tag leads to here, or None; a digest in it is ignored."""
        return self._index.resolve(reference)

    async def open(self, digest: Digest) -> Blob:
        """Open a blob for reading; raise NotInStore. The caller closes the Blob."""
        await trio.lowlevel.checkpoint()
        descriptor = self._index.descriptor(digest)
        if descriptor is None:
            raise NotInStore(f"{digest} is not in {self._directory}")
        try:
            return open_blob(blob_name(self._directory, digest), descriptor)
        except NotInStore:
            self._doubt(descriptor)
            raise

    def growing(self, digest: Digest) -> GrowingFile | None:
        """Open what is being written of this digest in `ingest/`, or None; see Store.growing."""
        return self._ingests.open(self._directory, digest)

    def ingests(self) -> Collection[Ingest]:
        """Everything that is being written in `ingest/`, and leftovers."""
        return self._ingests.list(self._directory)

    def keys(self) -> Collection[Key]:
        """All keys held now."""
        return self._index.keys()

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """A subscription; its first item is Added(all keys held)."""
        return self._index.changes()

    def statistics(self) -> StoreStatistics:
        """A frozen snapshot."""
        crowded = "more blobs or images than can be offered" if self._index.full else ""
        return StoreStatistics(
            kind="layout",
            detail="; ".join(filter(None, (str(self._directory), self._polled, crowded))),
            synchronised=self._synchronised,
            answering=not self._problem,
            problem=self._problem,
            keys=self._index.counts(),
            bytes=self._index.bytes,
        )

    # Following the directory

    async def _walk(self, watcher: Watcher) -> _Watched:
        """Watch every directory, then read everything: whatever changes from here on makes an event."""
        await self._in_thread(check_layout, self._directory)
        names = await self._in_thread(algorithms, self._directory)
        watched = self._add_watches(watcher, names)
        found: dict[Digest, Found] = {}
        for name in names:
            found |= await self._in_thread(list_blobs, self._directory, name)
        self._walk_at = trio.current_time() + self._walk_seconds
        self._index.replace_content({digest: (item.size, self._judge(item)) for digest, item in found.items()})
        try:
            await self._read_images()
        finally:
            await self._settle()  # with a broken index.json the blobs are still current
        return watched

    def _add_watches(self, watcher: Watcher, names: Sequence[str]) -> _Watched:
        blobs = self._directory / "blobs"
        root = watcher.add(self._directory)
        if not names:
            return _Watched(root, watcher.add(blobs) if blobs.is_dir() else _NOT_WATCHED, {})
        return _Watched(root, watcher.add(blobs), {watcher.add(blobs / name): name for name in names})

    async def _follow(self, watcher: Watcher, watched: _Watched) -> None:
        """Handle events until everything has to be watched and walked anew."""
        while True:
            events: list[Event] = []
            with trio.CancelScope(deadline=self._walk_at):
                events = await anext(watcher)
            if not events:
                return
            if any(watched.needs_walk(event) for event in events):
                await trio.sleep(REWALK_SECONDS)
                return
            await self._handle(events, watched)
            await trio.sleep(GATHER_SECONDS)

    async def _handle(self, events: Sequence[Event], watched: _Watched) -> None:
        """Look again at every file that events name; the last event of each tells whether it is still written."""
        last = {digest: event.mask for event in events if (digest := watched.digest(event)) is not None}
        named = any(watched.renames(event) for event in events)
        looked = await self._in_thread(look_at_all, [self._path(digest) for digest in last])
        for (digest, mask), item in zip(last.items(), looked, strict=True):
            self._index.remove(digest)  # whatever lies there may be another file now: read it again
            if item is not None:
                self._index.put(digest, item.size, Evidence.WHOLE if mask & _WHOLE else self._judge(item))
        try:
            if named:
                await self._read_images()
        finally:
            await self._settle()

    def _judge(self, item: Found) -> Evidence:
        """Whether a file can be taken for whole by its age; if not, a walk soon looks again."""
        if abs(time.time() - item.modified) >= SETTLE_SECONDS:
            return Evidence.WHOLE
        self._walk_at = min(self._walk_at, trio.current_time() + SETTLE_SECONDS)
        return Evidence.WRITING

    async def _read_images(self) -> None:
        self._index.replace_images(await self._in_thread(read_images, self._directory))

    async def _settle(self) -> None:
        """Read the manifests that came, which may name others, and offer what is complete."""
        while unread := self._index.unread():
            for start in range(0, len(unread), READ_BATCH):
                await self._read_batch(unread[start : start + READ_BATCH])
        self._index.publish()

    async def _read_batch(self, unread: Sequence[Unread]) -> None:
        batch = [(item, self._path(item.digest)) for item in unread]
        for item, result in await self._in_thread(read_manifests, batch):
            if isinstance(result, NotInStore):
                self._index.remove(item.digest)
            else:
                self._index.learn(item.digest, result)

    def _doubt(self, descriptor: Descriptor) -> None:
        """A blob could not be opened: if it is gone, take it back at once, without waiting for an event."""
        found = look_at(self._path(descriptor.digest))
        if not self._problem and (found is None or found.size != descriptor.size):
            self._index.remove(descriptor.digest)
            self._index.publish()

    def _path(self, digest: Digest) -> Path:
        return blob_path(self._directory, digest)

    async def _in_thread(
        self, function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        return await trio.to_thread.run_sync(
            lambda: function(*arguments, **named), abandon_on_cancel=True, limiter=self._limiter
        )
