"""The store of this node's containerd, versions 1.6 to 2.x: see the package's other modules for how."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import structlog
import trio

from peili.containerd.client import Client
from peili.containerd.errors import ContainerdError
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.store.containerd.content import discover_root
from peili.store.containerd.session import Session
from peili.store.files import blob_name, open_blob
from peili.store.growing import GrowingFile, Ingests
from peili.store.index import StoreIndex
from peili.store.inotify import CannotWatch
from peili.store.protocol import Blob, Change, Ingest, NotInStore, StoreError, StoreStatistics

DEFAULT_SOCKET = Path("/run/containerd/containerd.sock")
DEFAULT_NAMESPACE = "k8s.io"
DEFAULT_DOWNLOADS = 3  # max_concurrent_downloads, where nobody set it
FIRST_BACKOFF = 0.2  # seconds until containerd is tried again
LONGEST_BACKOFF = 2.0
HEALTHY_SECONDS = 10.0  # a connection that lasted so long was a good one: its loss is no reason for patience
_SHOWN_NAMESPACES = 10

_log = structlog.get_logger("peili.store")


class ContainerdStore:
    """A Store (see peili.store.protocol) on containerd's socket, in one of its namespaces.

    `content_path`: its content directory, where that is not at the path that containerd names.
    """

    def __init__(
        self,
        socket: Path = DEFAULT_SOCKET,
        namespace: str = DEFAULT_NAMESPACE,
        content_path: Path | None = None,
    ) -> None:
        self._socket = socket
        self._namespace = namespace
        self._content_path = content_path
        self._index = StoreIndex()
        self._ingests = Ingests(namespace)
        self._root: Path | None = None
        self._session: Session | None = None
        self._version = ""
        self._synchronised = False
        self._saw_namespaces = False
        self._problem = f"containerd at {socket} has not answered yet"

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the index current until cancelled; started after the first whole walk."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ingests.growth.run)
            await self._keep_current(task_status)

    async def _keep_current(self, task_status: trio.TaskStatus[None]) -> None:
        backoff = FIRST_BACKOFF
        while True:
            started = trio.current_time()
            try:
                await self._connect_and_follow(task_status)
            except* (ContainerdError, StoreError, CannotWatch, OSError) as group:
                self._lost(_first(group))
            if trio.current_time() - started > HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF
            await trio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    def descriptor(self, digest: Digest) -> Descriptor | None:
        """What is held under this digest, or None."""
        return self._index.descriptor(digest)

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What this reference's tag leads to here, or None; a digest in it is ignored."""
        return self._index.resolve(reference)

    async def open(self, digest: Digest) -> Blob:
        """Open a blob for reading. Raise NotInStore; the caller closes the Blob."""
        await trio.lowlevel.checkpoint()
        descriptor = self._index.descriptor(digest)
        if descriptor is None or self._root is None:
            raise NotInStore(f"{digest} is not in containerd's namespace {self._namespace}")
        try:
            return open_blob(blob_name(self._root, digest), descriptor)
        except NotInStore:
            self._index.remove(digest)
            self._index.publish()
            if self._session is not None:
                self._session.file_changed(digest)
            raise

    def growing(self, digest: Digest) -> GrowingFile | None:
        """Open what containerd receives of this digest right now, or None; see Store.growing."""
        return self._ingests.open(self._root, digest) if self._root is not None else None

    def ingests(self) -> Collection[Ingest]:
        """Everything that containerd receives in this namespace, and leftovers."""
        return self._ingests.list(self._root) if self._root is not None else ()

    def keys(self) -> Collection[Key]:
        """All keys held now."""
        return self._index.keys()

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """A subscription; its first item is Added(all keys held)."""
        return self._index.changes()

    def statistics(self) -> StoreStatistics:
        """A frozen snapshot."""
        problem = self._problem
        if not problem and self._index.full:
            problem = "more images or blobs than the index takes: some are not offered"
        return StoreStatistics(
            kind="containerd",
            detail=self._version,
            download_slots=download_slots(self._version),
            synchronised=self._synchronised,
            answering=not self._problem,
            problem=problem,
            keys=self._index.counts(),
            bytes=self._index.bytes,
        )

    async def _connect_and_follow(self, task_status: trio.TaskStatus[None]) -> None:
        with Client(self._socket, self._namespace) as client:
            version = (await client.version()).version
            await self._look_for_namespace(client)
            self._root = await discover_root(client, self._content_path)
            self._version = version
            self._session = Session(client, self._root, self._index)
            try:
                await self._session.run(lambda: self._walked(task_status))
            finally:
                self._session = None

    async def _look_for_namespace(self, client: Client) -> None:
        """Say once where others exist and this one does not: containerd lists nothing in it, which is no error."""
        if self._saw_namespaces:
            return
        with suppress(ContainerdError):  # it is a hint only; what is lost is found by the next call
            existing = await client.namespaces()
            self._saw_namespaces = True
            if existing and self._namespace not in existing:
                _log.warning(
                    "no such containerd namespace yet: nothing is offered from it",
                    namespace=self._namespace,
                    existing=sorted(existing)[:_SHOWN_NAMESPACES],
                )

    def _walked(self, task_status: trio.TaskStatus[None]) -> None:
        if self._problem:
            _log.info(
                "containerd answers", version=self._version, content=str(self._root), keys=len(self._index.keys())
            )
        self._problem = ""
        if not self._synchronised:
            self._synchronised = True
            task_status.started()

    def _lost(self, error: BaseException) -> None:
        problem = str(error) or type(error).__name__
        if problem != self._problem:
            _log.warning("containerd does not answer; trying again", problem=problem)
        self._problem = problem


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of the errors in a group of groups; the others are the same loss seen by other tasks."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def download_slots(version: str) -> int:
    """How many downloads this version runs at once over all pulls; 0 where only each pull has a limit.

    2.1 and newer count them for the whole node, three unless max_concurrent_downloads says otherwise (containerd,
    docs/cri/config.md); what it says is not exported.
    """
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})", version)
    return DEFAULT_DOWNLOADS if found is not None and (int(found[1]), int(found[2])) >= (2, 1) else 0
