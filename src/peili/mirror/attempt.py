"""One attempt: one provider is asked for one piece of content, and its answer checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import trio

from peili.http.client import Client, Response
from peili.http.errors import (
    BodyTooLarge,
    ConnectFailed,
    HttpError,
    NoMeans,
    ResponseTimeout,
    SourceEnded,
    SourceStalled,
)
from peili.http.message import Headers, SocketAddress
from peili.mirror.answer import (
    MAXIMUM_MANIFEST_SIZE,
    SMALL_BLOB_SIZE,
    Head,
    check_body,
    check_head,
)
from peili.mirror.body_budget import BodyBudget, Lease
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.oci.descriptor import Descriptor
from peili.oci.distribution import ContentTarget, ManifestTarget, render_target
from peili.oci.ranges import RangeRequest, Span
from peili.routing.protocol import Provider

LARGE_MANIFEST_SIZE = 64 * 1024  # bytes; above, it is read in a thread, which costs less than the loop would wait


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. `range` None means all of it; `head_only` that no body is needed."""

    target: ContentTarget
    range: RangeRequest | None = None
    head_only: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """A small body that was read completely and fits its digest; `span` is the part that was asked for.

    Whoever holds this closes it, once the body is used: its memory counts until then.
    """

    provider: Provider
    descriptor: Descriptor
    span: Span
    body: bytes
    lease: Lease

    def close(self) -> None:
        """Give the body's room back."""
        self.lease.release()


@dataclass(frozen=True, slots=True)
class Stream:
    """A large body that stands ready to be relayed; whoever holds this closes the response."""

    provider: Provider
    descriptor: Descriptor
    span: Span
    response: Response


Answer = Whole | Stream


async def close(answer: Answer) -> None:
    """Give back what the answer holds. Never waits."""
    if isinstance(answer, Stream):
        await answer.response.aclose()
    else:
        answer.close()


class PeerRequests(Protocol):
    """What requests to peers carry (the mark against forwarding, a proof of who asks), and answers have to."""

    def headers(self, method: str, target: str) -> Headers:
        """For a request that is sent now; `target` as it goes over the wire."""
        ...

    def objection(self, asked: Headers, answer: Headers, digest: str, media_type: str) -> str:
        """Why an answer for a tag, which leads to this content, is not to be believed; empty where it is."""
        ...


class Asker:
    """Asks providers. The headers are made for every single request, because a proof is good for one only.

    `silence`: seconds that a provider may be silent before the head, or within a small body.
    """

    def __init__(self, client: Client, requests: PeerRequests, budget: BodyBudget, *, silence: float) -> None:
        self._client = client
        self._requests = requests
        self._budget = budget
        self._silence = silence

    async def ask(self, provider: Provider, wanted: Wanted) -> Answer:
        """Ask one provider; a small body is checked whole, a large one only by its head.

        Raise AttemptFailed; NoRoom where this node has no memory for the body.
        """
        try:
            return await self._ask(provider, wanted)
        except HttpError as error:
            if isinstance(error, ResponseTimeout):
                # The machine may be gone without a word; kept connections to it would cost as much time each.
                self._client.forget(SocketAddress(provider.host, provider.port))
            raise AttemptFailed(_kind_of(error), str(error)) from error

    async def _ask(self, provider: Provider, wanted: Wanted) -> Answer:
        response, head = await self._open(provider, wanted)
        if _is_streamed(wanted, head):
            return Stream(provider, head.descriptor, head.span, response)
        if wanted.range is not None:
            # A part cannot be checked by the digest: ask for all of it.
            await response.aclose()
            return await self._ask_for_all(provider, wanted, head)
        async with response:
            return await self._read(provider, wanted, response, head)

    async def _ask_for_all(self, provider: Provider, wanted: Wanted, promised: Head) -> Whole:
        answer = await self.ask(provider, replace(wanted, range=None))
        if isinstance(answer, Whole) and answer.descriptor.size == promised.descriptor.size:
            return replace(answer, span=promised.span)
        await close(answer)
        raise AttemptFailed(FailureKind.LENGTH, "the size changed between two answers")

    async def _read(self, provider: Provider, wanted: Wanted, response: Response, head: Head) -> Whole:
        lease = await self._budget.take(head.descriptor.size)
        try:
            body = await response.read(MAXIMUM_MANIFEST_SIZE, timeout=self._silence)
            if isinstance(wanted.target, ManifestTarget) and len(body) > LARGE_MANIFEST_SIZE:
                await trio.to_thread.run_sync(check_body, wanted.target, head.descriptor, body)
            else:
                check_body(wanted.target, head.descriptor, body)
        except BaseException:  # a cancellation too: nobody will hold what was read
            lease.release()
            raise
        return Whole(provider, head.descriptor, head.span, body, lease)

    async def _open(self, provider: Provider, wanted: Wanted) -> tuple[Response, Head]:
        method = "HEAD" if wanted.head_only and not isinstance(wanted.target, ManifestTarget) else "GET"
        target = render_target(wanted.target)
        headers = self._requests.headers(method, target)
        if wanted.range is not None:
            headers = headers.with_("Range", str(wanted.range))
        response = await self._client.open(
            SocketAddress(provider.host, provider.port),
            method,
            target,
            headers,
            connect_timeout=self._silence,
            head_timeout=self._silence,
        )
        try:
            head = check_head(
                wanted.target, wanted.range, response.status, response.headers, response.content_length
            )
            if wanted.target.digest is None:  # all else is held against the digest that was asked for
                self._check_word(headers, response.headers, head.descriptor)
        except AttemptFailed:
            await response.aclose()
            raise
        return response, head

    def _check_word(self, asked: Headers, answer: Headers, descriptor: Descriptor) -> None:
        objection = self._requests.objection(asked, answer, str(descriptor.digest), descriptor.media_type)
        if objection:
            raise AttemptFailed(FailureKind.UNPROVEN, objection)


def _is_streamed(wanted: Wanted, head: Head) -> bool:
    """A manifest is never streamed: for a tag's HEAD too it is fetched and hashed."""
    if isinstance(wanted.target, ManifestTarget):
        return False
    return wanted.head_only or head.descriptor.size > SMALL_BLOB_SIZE


def _kind_of(error: HttpError) -> FailureKind:
    kinds: dict[type[HttpError], FailureKind] = {
        ConnectFailed: FailureKind.CONNECT,
        NoMeans: FailureKind.NO_MEANS,
        ResponseTimeout: FailureKind.TIMEOUT,
        BodyTooLarge: FailureKind.LENGTH,
        SourceEnded: FailureKind.ENDED,
        SourceStalled: FailureKind.STALLED,
    }
    return kinds.get(type(error), FailureKind.PROTOCOL)
