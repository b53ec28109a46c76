"""One connection's life: a first walk, then events, file watching and further walks until something breaks.

Three tasks. Two only take notes on the agenda: what containerd's event stream says, and what inotify says of the
content directory. The third does all the looking and is the only one that adds to the index, so that an old listing
can never overwrite newer news: what happens during a walk is looked at after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from peili.containerd.client import Client, Event, ImageRecord
from peili.containerd.errors import ContainerdError, Failure
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest, InvalidDigest
from peili.oci.media_types import INDEXES, MANIFESTS, OCTET_STREAM
from peili.store.containerd.agenda import Agenda, Look
from peili.store.containerd.content import (
    changed_digest,
    present_digests,
    read_manifests,
    readable_content,
    readable_size,
    watch_content,
)
from peili.store.index import MAXIMUM_DIGESTS, Evidence, StoreIndex
from peili.store.inotify import CannotWatch, Polling, Watcher, open_watcher
from peili.store.protocol import NotInStore, StoreError

READ_BATCH = 64  # manifests read in one go in a thread


class Session:
    """Keeps `index` as containerd says, through `client`, with its files under `root`."""

    def __init__(self, client: Client, root: Path, index: StoreIndex) -> None:
        self._client = client
        self._root = root
        self._index = index
        self._agenda = Agenda(trio.current_time())
        self._news = trio.Event()

    async def run(self, walked: Callable[[], None]) -> None:
        """Go on until ContainerdError or StoreError, alone or in a group. `walked` is called after each walk."""
        namespace = f'namespace=="{self._client.namespace}"'
        filters = [f'{namespace},topic~="^/images/"', f'{namespace},topic~="^/content/"']
        with self._open_watcher() as watcher:
            async with self._client.events(filters) as events, trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, events)
                nursery.start_soon(self._watch, watcher)
                await self._work(walked)

    def file_changed(self, digest: Digest) -> None:
        """Somebody found this blob's file gone or changed."""
        self._agenda.content_changed(digest, trio.current_time())
        self._news.set()

    # Taking notes

    async def _listen(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if event.namespace == self._client.namespace:
                self._note(event)
                self._news.set()
        raise ContainerdError(Failure.UNAVAILABLE, "containerd ended its event stream: it is stopping")

    def _note(self, event: Event) -> None:
        now = trio.current_time()
        if event.topic == "/images/delete" and event.subject:
            self._index.remove_image(event.subject)  # at once; the agenda sees whether it came back
            self._index.publish()
            self._agenda.image_removed(event.subject, now)
        elif event.topic.startswith("/images/") and event.subject:
            self._agenda.image_changed(event.subject, now)
        elif event.topic.startswith("/content/") and event.subject:
            digest = _digest(event.subject)
            if digest is not None:
                self._agenda.content_changed(digest, now)
        else:
            self._agenda.walk_soon(now)

    def _open_watcher(self) -> Watcher:
        watcher, _ = open_watcher()
        try:
            watch_content(watcher, self._root)
        except CannotWatch:  # no watch left: walks are the price
            watcher.close()
            return Polling()
        return watcher

    async def _watch(self, watcher: Watcher) -> None:
        watched = watch_content(watcher, self._root)
        async for batch in watcher:
            now = trio.current_time()
            for event in batch:
                algorithm = watched.get(event.watch, "")
                digest = changed_digest(algorithm, event.name) if algorithm else None
                if digest is not None:
                    self._agenda.content_changed(digest, now)
                elif event.walk_again or not algorithm:
                    before, watched = watched, watch_content(watcher, self._root)
                    # The first blob makes its directory: nothing tells of it but its file.
                    for new in set(watched.values()) - set(before.values()):
                        for digest in present_digests(self._root, new):
                            self._agenda.content_changed(digest, now)
                    self._agenda.walk_soon(now)
            self._news.set()

    # Looking

    async def _work(self, walked: Callable[[], None]) -> None:
        while True:
            self._news = trio.Event()
            started = trio.current_time()
            work = self._agenda.take(started)
            if work.walk:
                await self._walk()
                self._agenda.walked(started, trio.current_time())
            for name in work.images:
                await self._look_at_image(name)
            for look in work.looks:
                await self._look_at_content(look)
            await self._read()
            self._index.publish()
            if work.walk:
                walked()
            with trio.move_on_at(self._agenda.next_time()):
                await self._news.wait()

    async def _walk(self) -> None:
        listed = await self._client.list_content(MAXIMUM_DIGESTS)
        images = await self._client.images()
        readable = await trio.to_thread.run_sync(readable_content, self._root, listed)
        if listed and not readable:
            raise StoreError(
                f"containerd lists {len(listed)} blobs, but none can be read under {self._root}: this is not its "
                "content directory, or it may not be read by this user"
            )
        self._index.replace_content(readable)
        targets = {image.name: target for image in images if (target := image_target(image)) is not None}
        self._index.replace_images(targets)

    async def _look_at_image(self, name: str) -> None:
        image = await self._client.image(name)
        target = image_target(image) if image is not None else None
        if target is None:
            self._index.remove_image(name)
        else:
            self._index.set_image(name, target)

    async def _look_at_content(self, look: Look) -> None:
        size = readable_size(self._root, look.digest)
        if size is None:
            self._index.remove(look.digest)
            return
        record = await self._client.content(str(look.digest))
        if record is not None and record.size == size:
            self._index.put(look.digest, size, Evidence.VERIFIED)
        elif not self._agenda.retry(look, trio.current_time()):
            self._index.remove(look.digest)

    async def _read(self) -> None:
        while unread := self._index.unread():
            for start in range(0, len(unread), READ_BATCH):
                batch = unread[start : start + READ_BATCH]
                for item, result in await trio.to_thread.run_sync(read_manifests, self._root, batch):
                    if isinstance(result, NotInStore):
                        self._index.remove(item.digest)
                    else:
                        self._index.learn(item.digest, result)


def image_target(image: ImageRecord) -> Descriptor | None:
    """What an image record leads to, or None where it cannot be offered. The record may hold anything."""
    digest = _digest(image.digest)
    if digest is None or image.size < 0:
        return None
    known = image.media_type in INDEXES or image.media_type in MANIFESTS
    return Descriptor(digest, image.media_type if known else OCTET_STREAM, image.size)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None
