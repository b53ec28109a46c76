"""Follow: take from peers what they are still receiving themselves, and let them take it from here.

Who asks whom is decided by the coordinators of a digest (peili.follow); this is what one request for content does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from peili.follow.message import Join, Lead, Source
from peili.follow.source_choice import SourceChoice
from peili.follow.wait import POLL, AskAgain, TakeFrom, next_step
from peili.http.server import Exchange
from peili.mirror.answer import SMALL_BLOB_SIZE
from peili.mirror.attempt import Wanted
from peili.mirror.body_budget import NoRoom
from peili.mirror.held import Ending, HeldResponse, Tree
from peili.mirror.keeper import Keeper, follow_key
from peili.mirror.lookup import Found, Lookup, NotFound
from peili.mirror.race import NO_ROOM
from peili.mirror.search import Search
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget, ContentTarget, ManifestTarget
from peili.oci.key import digest_key
from peili.oci.ranges import RangeRequest
from peili.store.protocol import Store

MAXIMUM_UNNAMED = 3  # known holders that are asked, one after the other, before the coordinators are


@dataclass(frozen=True, slots=True)
class Own:
    """What this node's containerd has of a digest that it asks for: its ingest. 0 where it is not known."""

    size: int = 0
    total: int = 0


class Follower:
    """Answers requests from the tree, where there is one."""

    def __init__(self, store: Store, tree: Tree, keeper: Keeper, lookup: Lookup, *, port: int, zone: str) -> None:
        """`port` is that of this node's registry, `zone` its zone: what others need to know of a source."""
        self._store = store
        self._tree = tree
        self._keeper = keeper
        self._lookup = lookup
        self._port = port
        self._zone = zone

    @staticmethod
    def fits(target: ContentTarget, wanted: RangeRequest | None, *, head_only: bool) -> bool:
        """Whether this is a request that can follow: all of some content, or all from an offset on."""
        open_ended = wanted is None or (wanted.suffix is None and wanted.last is None)
        return target.digest is not None and open_ended and not head_only

    @contextmanager
    def holding(self, digest: Digest) -> Iterator[None]:
        """While a request is answered, until it is known who goes on with it: others may wait for this node."""
        self._keeper.hold(digest)
        try:
            yield
        finally:
            self._keeper.release(digest)

    async def answer_small(self, target: ContentTarget, digest: Digest, failed: set[str]) -> Found | Lead | None:
        """A manifest, config or other small blob: wait a little for whoever fetches it; else go upstream.

        Lead: the coordinators said so. `failed`: peers that are not asked any more, and those that are found to be
        at fault. The caller closes the answer. Raise NoRoom where this node has no memory for it.
        """
        started = trio.current_time()
        excluded: list[bytes] = []
        while True:
            own = self._own(digest)
            join = self._join(digest, own, tuple(excluded))
            answer = await self._tree.coordination.ask(join)
            self._tree.observer.told(join, answer)
            if answer is None:
                return None
            limit = self._tree.settings.manifest_wait
            step = next_step(answer, trio.current_time(), started=started, limit=limit)
            if isinstance(step, TakeFrom):
                found = await self._take_small(step.sources, target, digest, failed)
                if found is not None:
                    self._keeper.finish(digest)
                    return found
                if trio.current_time() >= started + limit:
                    return None
                excluded += [each.peer.id for each in step.sources if self._is_shunned(each, failed)]
                await trio.sleep(POLL)  # its containerd may have it, and its index hears of it in a moment
            elif isinstance(step, AskAgain):
                await trio.sleep_until(step.at)
            else:
                return answer if isinstance(answer, Lead) else None

    async def answer_large(
        self, exchange: Exchange, target: BlobTarget, wanted: RangeRequest | None, search: Search
    ) -> Ending:
        """Feed the response from the tree, and from whom `search` finds beside it.

        Where nothing was sent, the pull goes on as if there were no tree.
        """
        offset = wanted.first if wanted is not None else 0
        key, now, own = follow_key(target.digest), trio.current_time(), self._own(target.digest)
        banned = self._tree.poison.asked(key, offset, now)
        choice = SourceChoice(
            self._tree.settings,
            key,
            now,
            offset=offset,
            total=own.total,
            burden=self._burden(),
            port=self._port,
            zone=self._zone,
            banned=banned,
            verified_only=self._tree.poison.verified_only(key, now),
            known=self._near(search),
        )
        received = own.total > 0
        held = HeldResponse(self._tree, exchange, target, key, choice, search, offset=offset, received=received)
        ending = await held.run()
        if not ending.reason:
            self._keeper.finish(target.digest)
        elif not ending.leading:
            self._tree.observer.left_to_upstream(ending.reason)
        return ending

    def _near(self, search: Search) -> list[Source]:
        """Who has all of it and may be asked before the coordinators, who may know somebody in this zone."""
        near = [each for each in search.found if each.zone == self._zone]
        return [self._tree.sources.source(each) for each in near[:MAXIMUM_UNNAMED]]

    def is_small(self, target: ContentTarget, digest: Digest) -> bool:
        """Whether the content is read whole and checked before it is passed on."""
        if isinstance(target, ManifestTarget):
            return True
        return 0 < self._own(digest).total <= SMALL_BLOB_SIZE

    def goes_upstream(self, digest: Digest, *, unasked: bool = False) -> None:
        """containerd gets 404, and goes upstream: others may follow it.

        `unasked`: the coordinators do not know of it.
        """
        self._keeper.lead(digest, unasked=unasked)

    def goes_elsewhere(self, digest: Digest) -> None:
        """A committed provider was found after all."""
        self._keeper.withdraw(digest)

    def _join(self, digest: Digest, own: Own, excluded: tuple[bytes, ...]) -> Join:
        return Join(
            follow_key(digest),
            0,
            own.total,
            excluded=excluded,
            burden=self._burden(),
            port=self._port,
            zone=self._zone,
        )

    def _burden(self) -> int:
        """Leads are spread over the nodes, but not where downloads of one node wait for each other (2.1 on)."""
        return 0 if self._tree.slots.limited else self._keeper.leads

    async def _take_small(
        self, named: Sequence[Source], target: ContentTarget, digest: Digest, failed: set[str]
    ) -> Found | None:
        """From whoever answers first: those that the coordinators named, and who else is known to have it."""
        known = [self._tree.sources.provider(each) for each in named if not self._is_shunned(each, failed)]
        if not known:
            return None
        key, wanted = digest_key(digest), Wanted(target)
        outcome = await self._lookup.run(key, wanted, excluded=failed, failed=failed, known=known)
        if isinstance(outcome, NotFound):
            if outcome.reason == NO_ROOM:
                raise NoRoom
            return None
        return outcome

    def _is_shunned(self, source: Source, failed: Collection[str]) -> bool:
        """Whether it failed in this request, or lately."""
        sources = self._tree.sources
        return sources.name_of(source) in failed or sources.is_suspect(source, trio.current_time())

    def _own(self, digest: Digest) -> Own:
        blob = self._store.growing(digest)
        if blob is None:
            return Own()
        with blob:
            return Own(blob.size(), blob.total)
