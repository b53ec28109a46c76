"""The /v2/ endpoint: what to answer, to this node's containerd and to peers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import trio

from peili.follow.serving import Admission
from peili.http.errors import SinkClosed, SourceFailed
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.http.sink import Sink
from peili.mirror.answer import SMALL_BLOB_SIZE
from peili.mirror.growing_source import FOLLOW_HEADER, GROWING_HEADER, REFUSED_HEADER, UNLESS_SENDING
from peili.mirror.mirror import Mirror
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.distribution import (
    BaseTarget,
    BlobTarget,
    ContentTarget,
    InvalidTarget,
    ManifestTarget,
    content_headers,
    name_of,
    parse_target,
)
from peili.oci.errors import ErrorCode, Refusal
from peili.oci.key import Key, digest_key, tag_key
from peili.oci.media_types import INDEXES, MANIFESTS, OCTET_STREAM
from peili.oci.ranges import (
    RangeRequest,
    Span,
    UnsatisfiableRange,
    parse_range,
    render_unsatisfied_range,
)
from peili.oci.reference import Reference
from peili.registry.gate import Caller, Gate
from peili.registry.policy import Policy
from peili.registry.record import ByteSource, Handler, Outcome, RequestRecord
from peili.registry.uploads import NO_PLACE, Uploads
from peili.store.protocol import Blob, GrowingBlob, NotInStore, Store, StoreError

# Seconds without growth until a growing blob's answer ends. Longer than followers wait, who know how deep they are
# in the tree: they decide, and this only frees what a silent one left behind.
GROWING_STALL = 10.0
_BASE_HEADERS = {"Docker-Distribution-API-Version": "registry/2.0", "Content-Type": "application/json"}
_UNKNOWN = {
    ManifestTarget: Refusal(404, ErrorCode.MANIFEST_UNKNOWN, "no node of this cluster has it"),
    BlobTarget: Refusal(404, ErrorCode.BLOB_UNKNOWN, "no node of this cluster has it"),
}

_REFUSED = {
    Admission.BUSY: Refusal(503, ErrorCode.UNAVAILABLE, "enough others take this layer from here (--fan-out)"),
    Admission.BEHIND: Refusal(503, ErrorCode.UNAVAILABLE, "this node holds no more of it than you do"),
}
_BUSY = Refusal(503, ErrorCode.UNAVAILABLE, NO_PLACE)


@dataclass(slots=True)
class _Account:
    """What is gathered for the RequestRecord while a request is answered."""

    handler: Handler = Handler.INVALID
    kind: str = "invalid"
    registry: str = ""
    repository: str = ""
    name: str = ""
    outcome: Outcome = Outcome.ERROR
    source: ByteSource = ByteSource.NONE
    reason: str = ""
    providers: tuple[str, ...] = ()
    attempts: int = 0
    resumes: int = 0
    resolve_seconds: float = 0.0


def _serve_all(digest: Digest, size: int, start: int, followers: int) -> Admission:
    return Admission.SERVE


@dataclass(slots=True)
class Registry:
    """Answers requests of the distribution specification's pull part. `record` is called once per request."""

    store: Store
    mirror: Mirror
    policy: Policy
    gate: Gate
    record: Callable[[RequestRecord], None]
    uploads: Uploads = field(default_factory=Uploads)
    admit: Callable[[Digest, int, int, int], Admission] = _serve_all
    growing_stall: float = GROWING_STALL
    _now: Callable[[], float] = field(default=trio.current_time)
    _followers: Counter[Digest] = field(default_factory=Counter)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request; for the HTTP server, which says 500 where this raises before the answer was begun."""
        account = _Account()
        started = self._now()
        try:
            await self._answer(exchange, account)
        except SinkClosed as error:
            account.outcome, account.reason = Outcome.GONE, str(error)
        except BaseException as error:  # a disk that fails in the middle, a fault of ours, the end of the node
            account.outcome = Outcome.TRUNCATED if exchange.started else Outcome.ERROR
            account.reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.record(self._summarise(exchange, account, started))

    async def _answer(self, exchange: Exchange, account: _Account) -> None:
        request = exchange.request
        caller = self.gate.judge(request)
        if isinstance(caller, Refusal):
            account.handler = Handler.STRANGER
            await _refuse(exchange, account, caller)
            return
        if request.method not in ("GET", "HEAD"):
            refusal = Refusal(405, ErrorCode.UNSUPPORTED, "only GET and HEAD: nothing can be written here")
            await _refuse(exchange, account, refusal, {"Allow": "GET, HEAD"})
            return
        try:
            target = parse_target(request.target)
        except InvalidTarget as error:
            await _refuse(exchange, account, error.refusal)
            return
        if isinstance(target, BaseTarget):
            account.handler, account.kind, account.outcome = Handler.BASE, "base", Outcome.HIT
            await exchange.respond(200, Headers.of(_BASE_HEADERS), b"{}")
            return
        account.handler = Handler.SERVE if caller is Caller.PEER else Handler.MIRROR
        await self._answer_content(exchange, target, account)

    async def _answer_content(self, exchange: Exchange, target: ContentTarget, account: _Account) -> None:
        request = exchange.request
        account.kind = "manifest" if isinstance(target, ManifestTarget) else "blob"
        account.registry = self.policy.registry_of(target) or ""
        account.repository, account.name = target.repository, name_of(target)
        refusal = self.policy.refuses(target)
        if refusal is not None:
            await _refuse(exchange, account, refusal)
            return
        wanted = parse_range(request.headers.get("Range")) if isinstance(target, BlobTarget) else None
        if "If-Range" in request.headers:
            wanted = None  # RFC 9110, section 13.1.5: no validator of ours can match
        blob = await self._open(target)
        if blob is not None:
            await self._answer_local(exchange, account, target, blob, wanted)
        elif account.handler is Handler.SERVE:
            await self._serve_growing(exchange, account, target, wanted)
        else:
            await self._mirror(exchange, account, target, wanted)

    async def _answer_local(
        self,
        exchange: Exchange,
        account: _Account,
        target: ContentTarget,
        blob: Blob,
        wanted: RangeRequest | None,
    ) -> None:
        digest = blob.descriptor.digest
        unless_sending = exchange.request.headers.get(FOLLOW_HEADER) == UNLESS_SENDING
        with blob, self._place(exchange, account, blob.size) as granted:
            if not granted:
                await _refuse(exchange, account, _BUSY)
            elif unless_sending and self._followers[digest]:
                await _refuse(
                    exchange, account, _REFUSED[Admission.BUSY], {REFUSED_HEADER: Admission.BUSY.name.lower()}
                )
            else:
                with self._follower(digest) if account.handler is Handler.SERVE else nullcontext():
                    proof = self._proof(exchange, account, target, blob)
                    await _send_blob(exchange, account, blob, wanted, proof)

    async def _serve_growing(
        self, exchange: Exchange, account: _Account, target: ContentTarget, wanted: RangeRequest | None
    ) -> None:
        """What is not committed: to a peer that follows, the bytes as they arrive; to others it is not there."""
        follows = isinstance(target, BlobTarget) and FOLLOW_HEADER in exchange.request.headers
        blob = self.store.growing(target.digest) if follows and target.digest is not None else None
        if blob is None:
            account.outcome = Outcome.MISS
            await _respond(exchange, _UNKNOWN[type(target)])
            return
        with blob:
            start = wanted.first if wanted is not None else 0
            admission = self.admit(blob.digest, blob.size(), start, self._followers[blob.digest])
            if admission is not Admission.SERVE:
                await _refuse_follower(exchange, account, admission)
                return
            with self._place(exchange, account, blob.total) as granted, self._follower(blob.digest):
                if granted:
                    await _send_growing(exchange, account, blob, wanted, self.growing_stall)
                else:
                    await _refuse(exchange, account, _BUSY)

    @contextmanager
    def _follower(self, digest: Digest) -> Iterator[None]:
        """Count one who takes this blob from here."""
        self._followers[digest] += 1
        try:
            yield
        finally:
            self._followers[digest] -= 1
            if not self._followers[digest]:
                del self._followers[digest]

    def _place(self, exchange: Exchange, account: _Account, size: int) -> AbstractContextManager[bool]:
        """Whether this body may be sent now: manifests, small blobs and our own containerd are never refused."""
        request = exchange.request
        if account.handler is not Handler.SERVE or request.method == "HEAD" or size <= SMALL_BLOB_SIZE:
            return nullcontext(enter_result=True)
        return self.uploads.place(request.client.host)

    def _proof(
        self, exchange: Exchange, account: _Account, target: ContentTarget, blob: Blob
    ) -> dict[str, str] | None:
        """A peer that asks for a tag has no digest to hold the answer against, so it gets our word as a member."""
        if account.handler is not Handler.SERVE or target.digest is not None:
            return None
        return self.gate.answer_fields(exchange.request, blob.descriptor)

    async def _open(self, target: ContentTarget) -> Blob | None:
        """The local content, or None where the store cannot give it."""
        descriptor = self._local(target)
        if descriptor is None:
            return None
        if isinstance(target, ManifestTarget) and descriptor.media_type not in INDEXES | MANIFESTS:
            return None
        try:
            return await self.store.open(descriptor.digest)
        except (NotInStore, StoreError):
            return None  # it vanished this moment, or the store is away: peers or upstream have it

    def _local(self, target: ContentTarget) -> Descriptor | None:
        if target.digest is not None:
            return self.store.descriptor(target.digest)
        return self.store.resolve(self._tag_reference(target))

    def _tag_reference(self, target: ContentTarget) -> Reference:
        """The full reference of a tag; the policy let it pass, so its registry is known."""
        assert isinstance(target, ManifestTarget)
        return Reference(self.policy.registry_of(target) or "", target.repository, target.tag)

    async def _mirror(
        self, exchange: Exchange, account: _Account, target: ContentTarget, wanted: RangeRequest | None
    ) -> None:
        digest: Digest | None = target.digest
        key: Key = digest_key(digest) if digest is not None else tag_key(self._tag_reference(target))
        trace = await self.mirror.answer(exchange, key, self.policy.with_registry(target), wanted)
        account.providers, account.attempts = tuple(trace.providers), trace.attempts
        account.resumes, account.resolve_seconds = trace.resumes, trace.resolve_seconds
        account.reason = trace.reason
        if not exchange.started and trace.size is not None:
            await _refuse_range(exchange, account, trace.size)
            return
        if not exchange.started:
            account.outcome = Outcome.MISS
            await _respond(exchange, _UNKNOWN[type(target)])
            return
        account.source = ByteSource.PEER
        account.outcome = Outcome.TRUNCATED if trace.reason else Outcome.HIT

    def _summarise(self, exchange: Exchange, account: _Account, started: float) -> RequestRecord:
        now = self._now()
        first_byte = exchange.head_at
        unanswered = 500 if account.outcome is Outcome.ERROR else 0
        return RequestRecord(
            at=time.time(),
            handler=account.handler,
            method=exchange.request.method,
            kind=account.kind,
            registry=account.registry,
            repository=account.repository,
            name=account.name,
            client=str(exchange.request.client),
            status=exchange.status or unanswered,
            outcome=account.outcome,
            source=account.source,
            reason=account.reason,
            size=exchange.body_sent,
            providers=account.providers,
            attempts=account.attempts,
            resumes=account.resumes,
            resolve_seconds=account.resolve_seconds,
            first_byte_seconds=first_byte - started if first_byte is not None else 0.0,
            seconds=now - started,
        )


async def _send_blob(
    exchange: Exchange, account: _Account, blob: Blob, wanted: RangeRequest | None, proof: dict[str, str] | None
) -> None:
    span = await _span(exchange, account, blob.size, wanted)
    if span is None:
        return
    account.source, account.outcome = ByteSource.LOCAL, Outcome.HIT
    sink = await _start(exchange, blob.descriptor, span, wanted, proof)
    if exchange.request.method == "GET" and span.length:
        await sink.send_file(blob.fileno, span.start, span.length)


async def _send_growing(
    exchange: Exchange, account: _Account, blob: GrowingBlob, wanted: RangeRequest | None, stall_timeout: float
) -> None:
    """The head at once, the bytes as they arrive; where they end or stall the body ends early.

    What was committed a moment ago is verified, though the index does not know it yet: no header says growing.
    """
    committed = blob.committed()
    growing = {} if committed else {GROWING_HEADER: str(blob.size())}
    span = await _span(exchange, account, blob.total, wanted, growing)
    if span is None:
        return
    account.source, account.outcome = ByteSource.LOCAL if committed else ByteSource.GROWING, Outcome.HIT
    descriptor = Descriptor(blob.digest, OCTET_STREAM, blob.total)
    sink = await _start(exchange, descriptor, span, wanted, growing)
    if exchange.request.method != "GET":
        return
    try:
        await sink.send_growing(blob, span.start, span.length, stall_timeout=stall_timeout)
    except SourceFailed as error:
        account.outcome, account.reason = Outcome.TRUNCATED, str(error)


async def _span(
    exchange: Exchange,
    account: _Account,
    size: int,
    wanted: RangeRequest | None,
    headers: dict[str, str] | None = None,
) -> Span | None:
    """The part that is asked for; None where there is no such part, which is answered then."""
    if wanted is None:
        return Span(0, size)
    try:
        return wanted.resolve(size)
    except UnsatisfiableRange:
        await _refuse_range(exchange, account, size, headers)
        return None


async def _start(
    exchange: Exchange,
    descriptor: Descriptor,
    span: Span,
    wanted: RangeRequest | None,
    headers: dict[str, str] | None = None,
) -> Sink:
    part = span if wanted is not None else None
    fields = {**content_headers(descriptor, part), **(headers or {})}
    return await exchange.start(200 if part is None else 206, Headers.of(fields), span.length)


async def _refuse(
    exchange: Exchange, account: _Account, refusal: Refusal, headers: dict[str, str] | None = None
) -> None:
    account.outcome, account.reason = Outcome.REFUSED, refusal.message
    await _respond(exchange, refusal, headers)


async def _refuse_follower(exchange: Exchange, account: _Account, admission: Admission) -> None:
    await _refuse(exchange, account, _REFUSED[admission], {REFUSED_HEADER: admission.name.lower()})


async def _refuse_range(
    exchange: Exchange, account: _Account, size: int, headers: dict[str, str] | None = None
) -> None:
    refusal = Refusal(416, ErrorCode.RANGE_INVALID, f"the range begins beyond the end of {size} bytes")
    fields = {"Content-Range": render_unsatisfied_range(size), **(headers or {})}
    await _refuse(exchange, account, refusal, fields)


async def _respond(exchange: Exchange, refusal: Refusal, headers: dict[str, str] | None = None) -> None:
    fields = {"Content-Type": "application/json", **(headers or {})}
    await exchange.respond(refusal.status, Headers.of(fields), refusal.body())
