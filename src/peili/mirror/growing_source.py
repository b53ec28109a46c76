"""Asking a source of the tree: a peer that has the digest committed, or is receiving it itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peili.follow.failed_sources import SourceFailure
from peili.follow.message import Source
from peili.http.client import Client, Response
from peili.http.errors import HttpError, NoMeans, ResponseTimeout
from peili.http.message import Headers, SocketAddress
from peili.mirror.answer import check_head
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.oci.distribution import BlobTarget, render_target
from peili.oci.ranges import RangeRequest

# A peer that asks with FOLLOW_HEADER takes a blob that the other node still receives; GROWING_HEADER tells it how
# many bytes of it are there. An answer without that header is of verified content. Who has not heard yet whom the
# coordinators name asks with UNLESS_SENDING: a holder that already sends the digest to somebody leaves it to them.
FOLLOW_HEADER = "X-Peili-Follow"
UNLESS_SENDING = "unless-sending"
GROWING_HEADER = "X-Peili-Growing"
# Why a source refuses (503): "busy", its fan-out, or "behind", it holds no more than the follower.
REFUSED_HEADER = "X-Peili-Refused"
BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class GrowingStream:
    """A source's answer, ready to be relayed from `offset` to the end; `committed`: its node has verified it."""

    source: Source
    response: Response
    total: int
    committed: bool


class SourceRefused(Exception):
    """A source did not answer with the bytes."""

    def __init__(self, failure: SourceFailure, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.kind = kind


class SourceAsker:
    """Asks sources. `headers` are made for every request, from its method and target.

    `silence`: seconds that a source may be silent before the head of its answer.
    """

    def __init__(self, client: Client, headers: Callable[[str, str], Headers], *, silence: float) -> None:
        self._client = client
        self._headers = headers
        self._silence = silence

    async def ask(
        self, source: Source, target: BlobTarget, offset: int, *, unless_sending: bool = False
    ) -> GrowingStream:
        """The bytes from the offset on; raise SourceRefused.

        `unless_sending`: where it already sends them to somebody, it is to refuse.
        """
        path = render_target(target)
        headers = self._headers("GET", path).with_(FOLLOW_HEADER, UNLESS_SENDING if unless_sending else "1")
        wanted = RangeRequest(offset) if offset else None
        if wanted is not None:
            headers = headers.with_("Range", str(wanted))
        address = SocketAddress(source.peer.host, source.peer.port)
        try:
            response = await self._client.open(
                address, "GET", path, headers, connect_timeout=self._silence, head_timeout=self._silence
            )
        except ResponseTimeout as error:
            self._client.forget(address)
            raise SourceRefused(SourceFailure.STALLED, FailureKind.TIMEOUT, str(error)) from error
        except NoMeans as error:
            raise SourceRefused(SourceFailure.BUSY, FailureKind.NO_MEANS, str(error)) from error
        except HttpError as error:
            raise SourceRefused(SourceFailure.BROKEN, FailureKind.CONNECT, str(error)) from error
        try:
            head = check_head(target, wanted, response.status, response.headers, response.content_length)
        except AttemptFailed as error:
            refused = response.headers.get(REFUSED_HEADER)
            await response.aclose()
            raise SourceRefused(_failure_of(error.kind, refused), error.kind, str(error)) from error
        committed = GROWING_HEADER not in response.headers
        return GrowingStream(source, response, head.descriptor.size, committed)


def _failure_of(kind: FailureKind, refused: str | None) -> SourceFailure:
    if kind is not FailureKind.BUSY:
        return SourceFailure.BROKEN
    return SourceFailure.BEHIND if refused == BEHIND else SourceFailure.BUSY
