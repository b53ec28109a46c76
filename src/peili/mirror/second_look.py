"""Holders of a digest of which wrong bytes came before: each is read to its end before containerd gets any of it.

A large blob is passed on as it comes, so that who lies is found out by containerd, at the cost of a failed pull.
One such pull is enough: from then on a holder of that digest is asked twice, the first time only to hash what it
sends. That costs the transfer twice, of one blob, on the nodes that were lied to.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

import trio

from peili.follow.failed_sources import SourceFailure
from peili.follow.message import Source
from peili.http.client import Response
from peili.http.errors import SourceEnded
from peili.mirror.attempt import Asker, Stream, Wanted
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.mirror.growing_source import SourceAsker, SourceRefused
from peili.mirror.history import History
from peili.mirror.lookup import Found, Lookup, NotFound, Observer
from peili.mirror.verdicts import Verdicts
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget
from peili.oci.key import Key

THROWN_AWAY: Final = "thrown_away"  # why nothing is sent: upstream is to give what peers were wrong about
LONGEST: Final = 20.0  # seconds; containerd waits for the head meanwhile, and has upstream
MOST: Final = 4  # holders that are read
_READ_SIZE: Final = 256 * 1024


class SecondLook:
    """Finds a holder whose bytes are right."""

    def __init__(
        self,
        lookup: Lookup,
        asker: Asker,
        verdicts: Verdicts,
        history: History,
        observer: Observer,
        *,
        stall_timeout: float,
    ) -> None:
        self._lookup = lookup
        self._asker = asker
        self._verdicts = verdicts
        self._history = history
        self._observer = observer
        self._stall_timeout = stall_timeout

    async def run(self, key: Key, wanted: Wanted, excluded: Collection[str]) -> Found | NotFound:
        """As Lookup.run, of a holder that has just given all of it rightly. The caller closes the answer."""
        excluded, attempts, started = set(excluded), 0, trio.current_time()
        with trio.move_on_after(LONGEST):
            for _ in range(MOST):
                outcome = await self._lookup.run(key, Wanted(wanted.target), excluded)
                attempts += outcome.attempts
                if isinstance(outcome, NotFound) or not isinstance(outcome.answer, Stream):
                    return outcome
                provider = outcome.answer.provider
                excluded.add(provider.peer_id)
                try:
                    await _read(outcome.answer.response, outcome.answer.descriptor.digest, self._stall_timeout)
                    return replace(outcome, answer=await self._asker.ask(provider, wanted), attempts=attempts)
                except AttemptFailed as error:
                    self._note(outcome.answer, error)
        return NotFound(THROWN_AWAY, attempts, trio.current_time() - started)

    def _note(self, stream: Stream, error: AttemptFailed) -> None:
        peer_id = stream.provider.peer_id
        if error.kind is FailureKind.DIGEST:
            self._verdicts.found_wrong(stream.descriptor.digest, peer_id)
        if error.blames_node:
            self._history.failed(peer_id, trio.current_time())
        self._observer.attempt_failed(stream.provider, error.kind, str(error))


async def look_at(asker: SourceAsker, source: Source, target: BlobTarget, *, stall_timeout: float) -> None:
    """The same for a source of the tree, which says that it has verified the bytes; raise SourceRefused."""
    stream = await asker.ask(source, target, 0)
    if not stream.committed:
        await stream.response.aclose()
        raise SourceRefused(SourceFailure.BEHIND, FailureKind.BUSY, "has not verified it yet")
    kind, text = FailureKind.STALLED, f"not all of it within {LONGEST:g} s"
    with trio.move_on_after(LONGEST):
        try:
            await _read(stream.response, target.digest, stall_timeout)
        except AttemptFailed as error:
            kind, text = error.kind, str(error)
        else:
            return
    raise SourceRefused(SourceFailure.BROKEN, kind, text)


async def _read(response: Response, digest: Digest, stall_timeout: float) -> None:
    """Read all of it; raise AttemptFailed where it breaks off or its bytes are wrong."""
    hasher = digest.hasher()
    async with response:
        try:
            while response.source.remaining:
                with trio.fail_after(stall_timeout):
                    hasher.update(await response.source.receive(_READ_SIZE))
        except SourceEnded as error:
            raise AttemptFailed(FailureKind.ENDED, str(error)) from error
        except trio.TooSlowError as error:
            text = f"no byte for {stall_timeout:g} s, {response.source.remaining} before the end"
            raise AttemptFailed(FailureKind.STALLED, text) from error
    if hasher.hexdigest() != digest.hex:
        raise AttemptFailed(FailureKind.DIGEST, f"the bytes are not those of {digest}")
