"""What this node's containerd receives, kept known to the coordinators until it is committed or gone.

After a 404 containerd goes upstream, and its ingest grows: this node leads, and says so, with the offset, for as
long as it grows. After a body from peers went out, it waits for the commit, which tells whether the bytes were
right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Protocol

import trio

from peili.follow.growth import Growth, GrowthWatch
from peili.follow.message import Answer, Ask, Keep, Leave, Outcome, Renew
from peili.follow.poison import Poison
from peili.follow.settings import FollowSettings
from peili.follow.slots import Slots
from peili.mirror.answer import SMALL_BLOB_SIZE
from peili.oci.digest import Digest
from peili.oci.key import digest_key
from peili.routing.protocol import Coordination
from peili.store.protocol import GrowingBlob, Store

MAXIMUM_KEPT = 256  # digests at once; a node pulls a few images at a time
# Seconds between two looks at what is committed and not yet in the index: the first, and the longest.
_FIRST_LOOK, _LOOK = 0.002, 0.02
# Seconds from our 404 until the coordinators hear that we do as told: containerd has the word first. What is
# small is mostly committed by then, which they hear of instead.
_FIRST_WORD, _FIRST_WORD_OF_SMALL = 0.02, 0.05
_LONGEST_LOOK = 0.25
_GRACE = 30.0  # seconds for which an ingest that does not grow any more is still watched
# Seconds that the store's index may be behind a commit: others are told only of what they will be given.
_INDEX_DELAY = 1.0


class FollowObserver(Protocol):
    """Who wants to hear of leads and follows; metrics, mostly. Must not raise and must not wait."""

    def leading(self) -> None:
        """This node fetches a digest from upstream, for the others too."""
        ...

    def following(self, depth: int) -> None:
        """This node takes a digest from a source at this depth of the tree."""
        ...

    def told(self, ask: Ask, answer: Answer | None) -> None:
        """What the coordinators said; None: they were silent."""
        ...

    def left_to_upstream(self, reason: str) -> None:
        """A pull that could have followed goes upstream."""
        ...

    def thrown_away(self, digest: Digest, providers: Collection[str]) -> None:
        """containerd threw away what it received of this digest from these peers: its bytes were wrong."""
        ...

    def followed_bytes(self, count: int) -> None:
        """So many bytes came from blobs that were still growing on their source."""
        ...


def follow_key(digest: Digest) -> bytes:
    """The digest's place in the keyspace: sha2-256 of its key."""
    return hashlib.sha256(digest_key(digest).encode()).digest()


class Keeper:
    """Watches the ingests that matter to others. Its tasks live in the nursery that `run` owns."""

    def __init__(
        self,
        store: Store,
        coordination: Coordination,
        settings: FollowSettings,
        poison: Poison,
        slots: Slots,
        observer: FollowObserver,
    ) -> None:
        self._store = store
        self._coordination = coordination
        self._settings = settings
        self._poison = poison
        self._slots = slots
        self._observer = observer
        self._scopes: dict[Digest, trio.CancelScope] = {}
        self._leading: set[Digest] = set()
        self._held: dict[Digest, int] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the watches until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @property
    def leads(self) -> int:
        """How many digests this node leads."""
        return len(self._leading)

    def is_active(self, digest: Digest) -> bool:
        """Whether this node leads the digest, or follows somebody else for it."""
        return digest in self._leading or digest in self._held

    def hold(self, digest: Digest) -> None:
        """A response of this digest is fed from peers from now on, until `release`."""
        self._held[digest] = self._held.get(digest, 0) + 1
        scope = self._scopes.pop(digest, None)
        if scope is not None:
            scope.cancel()

    def release(self, digest: Digest) -> None:
        """The response ended."""
        left = self._held.get(digest, 0) - 1
        if left > 0:
            self._held[digest] = left
        else:
            self._held.pop(digest, None)

    def lead(self, digest: Digest, *, unasked: bool = False) -> None:
        """containerd goes upstream for this digest now: watch its ingest, and tell the coordinators as it grows.

        It begins to write before it asks. Who asks without writing fetches nothing that others could follow.
        `unasked`: the coordinators were not asked, so that they are to hear of it soon.
        """
        blob = self._store.growing(digest)
        if blob is None:
            self.withdraw(digest)
            return
        self._observer.leading()
        self._start(digest, blob, leading=True, unasked=unasked)

    def finish(self, digest: Digest) -> None:
        """The whole body went to containerd: see whether it is committed."""
        blob = self._store.growing(digest)
        if blob is not None:
            self._start(digest, blob, leading=False)

    def withdraw(self, digest: Digest) -> None:
        """This node relays it from a provider after all: it leads nothing."""
        if self._nursery is not None:
            self._nursery.start_soon(self._leave, digest, Outcome.GAVE_UP)

    def _start(self, digest: Digest, blob: GrowingBlob, *, leading: bool, unasked: bool = False) -> None:
        before = self._scopes.pop(digest, None)
        if before is not None:
            before.cancel()
            self._lead_over(digest)
        if self._nursery is None or len(self._scopes) >= MAXIMUM_KEPT:
            blob.close()
            return
        blob.watch()
        scope = self._scopes[digest] = trio.CancelScope()
        if leading:
            self._leading.add(digest)
            self._slots.lead_queued(follow_key(digest))
        self._nursery.start_soon(self._watch, digest, blob, scope, leading, unasked)

    async def _watch(
        self, digest: Digest, blob: GrowingBlob, scope: trio.CancelScope, leading: bool, unasked: bool
    ) -> None:
        key = follow_key(digest)
        try:
            with scope:
                with blob:
                    outcome = await _Watch(self, digest, blob, leading=leading, unasked=unasked).run()
                    whole = blob.size() >= blob.total
                    removed = blob.vanished() and not blob.thrown_away()  # a moment after its commit
                if outcome is Outcome.COMMITTED or (outcome is Outcome.VANISHED and removed):
                    self._poison.committed(key)
                elif outcome is Outcome.VANISHED and not whole:
                    # Upstream broke off, or the pull was cancelled.
                    self._poison.interrupted(key)
                elif outcome is Outcome.VANISHED:
                    self._poison.completed(key)  # whoever sent the last of it
                    blamed = self._poison.vanished(key, trio.current_time())
                    if blamed:
                        self._observer.thrown_away(digest, [source.hex() for source in blamed])
                if leading:
                    self._slots.lead_over(key)
                await self._leave(digest, outcome)
        finally:
            if self._scopes.get(digest) is scope:
                del self._scopes[digest]
            if leading and digest not in self._scopes:
                self._lead_over(digest)

    def _lead_over(self, digest: Digest) -> None:
        self._leading.discard(digest)
        self._slots.lead_over(follow_key(digest))

    async def _leave(self, digest: Digest, outcome: Outcome) -> None:
        leave = Leave(follow_key(digest), outcome)
        self._observer.told(leave, await self._coordination.ask(leave))


class _Watch:
    """One ingest until it is committed or gone."""

    def __init__(self, keeper: Keeper, digest: Digest, blob: GrowingBlob, *, leading: bool, unasked: bool) -> None:
        self._keeper = keeper
        self._digest = digest
        self._blob = blob
        self._key = follow_key(digest)
        self._leading = leading
        self._unasked = unasked
        self._renew_at = 0.0
        self._look = _FIRST_LOOK
        self._spoke = self._lapsed = False
        self._grew = False
        self._renamed_at: float | None = None  # when its file was first seen in its final place

    async def run(self) -> Outcome:
        """Watch; return how it ended."""
        keeper, settings = self._keeper, self._keeper._settings
        started = trio.current_time()
        # Where all pulls of a node share a few downloads, the lead may have to wait for one, and says so meanwhile.
        lapse = settings.queued if keeper._slots.limited else settings.lapse
        watch = GrowthWatch(started, lapse=lapse, stall=settings.stall, size=self._blob.size())
        late = self._is_small and not self._unasked
        self._renew_at = started + (_FIRST_WORD_OF_SMALL if late else _FIRST_WORD)
        while True:
            now = trio.current_time()
            state = watch.observe(now, self._size(), committed=self._is_committed(now))
            if state.over:
                return Outcome.COMMITTED if state is Growth.COMMITTED else Outcome.VANISHED
            if now - (watch.last_growth or started) > lapse + _GRACE:
                return Outcome.GAVE_UP
            await self._tell(watch, state, now)
            await self._wait(watch.size)

    @property
    def _is_small(self) -> bool:
        return 0 < self._blob.total <= SMALL_BLOB_SIZE

    def _size(self) -> int | None:
        return None if self._blob.vanished() else self._blob.size()

    def _is_committed(self, now: float) -> bool:
        """Whether the store offers it. Its file is in place some milliseconds before."""
        if self._keeper._store.descriptor(self._digest) is not None:
            return True
        if not self._blob.committed():
            return False
        if self._renamed_at is None:
            self._renamed_at = now
        return now - self._renamed_at >= _INDEX_DELAY

    async def _tell(self, watch: GrowthWatch, state: Growth, now: float) -> None:
        """Renew the lead while it grows; give it back when it does not begin to."""
        if not self._leading:
            return
        if state is Growth.LAPSED and not self._lapsed:
            self._lapsed = True
            self._keeper._slots.lead_over(self._key)
            self._spoke = True
            await self._keeper._leave(self._digest, Outcome.GAVE_UP)
            return
        if watch.last_growth == now:
            self._keeper._slots.lead_grew(self._key, now)
        if watch.grew and not self._grew:
            # Others wait for its first bytes, and may be waiting for its slot: both hear of them at once. Of small
            # content they want the commit, which is next.
            self._grew = True
            if not self._is_small:
                self._renew_at = now
        if 0 < self._blob.total <= watch.size:
            self._keeper._slots.lead_over(self._key)  # its download has ended, and its slot is free
        if (watch.grew or not self._lapsed) and now >= self._renew_at:
            self._spoke = True
            slots = self._keeper._slots
            queued = slots.queues(self._key, now) or slots.is_outrun(self._key, now)
            renew = Renew(self._key, watch.size, self._blob.total, queued=queued)
            answer = await self._keeper._coordination.ask(renew)
            self._keeper._observer.told(renew, answer)
            pause = (
                answer.milliseconds / 1000 if isinstance(answer, Keep) else self._keeper._settings.renew_interval
            )
            self._renew_at = now + pause

    async def _wait(self, size: int) -> None:
        if self._blob.ended():
            await trio.sleep(self._look)  # committed, and the store's index hears of it in a moment
            self._look = min(2 * self._look, _LOOK)
            return
        longest = _LONGEST_LOOK
        if self._leading and not self._spoke:
            longest = min(longest, max(self._renew_at - trio.current_time(), 0.0))
        await self._blob.wait(size, longest)
