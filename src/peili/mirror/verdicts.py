"""What becomes of the bodies that peers gave: committed, or thrown away, and then their providers are banned.

containerd begins to write a digest before it asks for it, so its ingest is there while we relay. Afterwards the
file is either the store's content or gone. Who asks without writing (a test, a curious operator) never commits
anything, and says nothing about the peers' bytes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from peili.follow.poison import Poison
from peili.mirror.keeper import follow_key
from peili.mirror.lookup import Observer
from peili.mirror.peer_ids import PeerIds
from peili.oci.digest import Digest, InvalidDigest
from peili.store.protocol import Added, GrowingBlob, Store

MAXIMUM_WATCHED: Final = 256  # bodies at once, each an open file; others are judged when they are asked for again
LONGEST_WATCH: Final = 300.0  # seconds until containerd has verified a body; it may have to write it to a slow disk
_LOOK: Final = 1.0  # seconds between two looks, should a change go unheard


class Verdicts:
    """Remembers who gave what, and watches what containerd does with it."""

    def __init__(self, store: Store, poison: Poison, observer: Observer, peer_ids: PeerIds) -> None:
        self._store = store
        self._poison = poison
        self._observer = observer
        self._peer_ids = peer_ids
        self._watched = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the watches until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await self._follow_store()
            finally:
                self._nursery = None

    def asked_from_start(self, digest: Digest) -> None:
        """containerd asks for all of this digest: what it received of it before, it threw away."""
        self._judge(digest, complete_only=False)

    def banned(self, digest: Digest) -> frozenset[str] | None:
        """Who is not to be asked for this digest; None where upstream is to give it."""
        key, now = follow_key(digest), trio.current_time()
        if self._poison.is_hopeless(key, now):
            return None
        return frozenset(map(self._peer_ids.to_text, self._poison.banned(key, now)))

    def doubts(self, digest: Digest | None) -> bool:
        """Whether peers were wrong about it: then none is believed before its bytes were seen."""
        return digest is not None and self._poison.verified_only(follow_key(digest), trio.current_time())

    def found_wrong(self, digest: Digest, peer_id: str) -> None:
        """This provider's bytes are wrong: we saw all of them ourselves."""
        self._poison.found_wrong(follow_key(digest), self._peer_ids.to_bytes(peer_id), trio.current_time())

    def open(self, digest: Digest) -> GrowingBlob | None:
        """What containerd writes of this digest, or None: then nothing is remembered. Give it back to `ended`."""
        return self._store.growing(digest)

    def relayed(self, digest: Digest, peer_id: str) -> None:
        """Bytes of this provider went to containerd."""
        source = self._peer_ids.to_bytes(peer_id)
        self._poison.relayed(follow_key(digest), source, trio.current_time(), committed=True)

    def ended(self, digest: Digest, blob: GrowingBlob, *, complete: bool) -> None:
        """The response is over; `complete`: the last byte of the blob went to containerd."""
        if not complete or self._nursery is None or self._watched >= MAXIMUM_WATCHED:
            if complete:
                self._poison.completed(follow_key(digest))
            blob.close()
            return
        self._poison.completed(follow_key(digest))
        blob.watch()
        self._watched += 1
        self._nursery.start_soon(self._watch, digest, blob)

    async def _watch(self, digest: Digest, blob: GrowingBlob) -> None:
        try:
            with blob, trio.move_on_after(LONGEST_WATCH):
                while not blob.ended():
                    await blob.wait(blob.total, _LOOK)
                if not blob.thrown_away() or self._is_held(digest):
                    self._poison.committed(follow_key(digest))
                else:
                    self._judge(digest, complete_only=True)
        finally:
            self._watched -= 1

    def _is_held(self, digest: Digest) -> bool:
        """Whether somebody else committed it meanwhile."""
        if self._store.descriptor(digest) is not None:
            return True
        blob = self._store.growing(digest)
        if blob is None:
            return False
        with blob:
            return blob.committed()

    def _judge(self, digest: Digest, *, complete_only: bool) -> None:
        blamed = self._poison.vanished(follow_key(digest), trio.current_time(), complete_only=complete_only)
        if blamed:
            self._observer.thrown_away(digest, [self._peer_ids.to_text(source) for source in blamed])

    async def _follow_store(self) -> None:
        """What the store gains was right, whoever gave the last part of it."""
        async with self._store.changes() as changes:
            async for change in changes:
                if isinstance(change, Added):
                    for key in change.keys:
                        self._note(key)

    def _note(self, key: str) -> None:
        with suppress(InvalidDigest):  # a tag
            self._poison.committed(follow_key(Digest.parse(key)))
