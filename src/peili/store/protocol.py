"""What Peili needs of a content store: the interface that containerd's store and the layout store offer.

The store keeps its index (which tags, digests, sizes and media types there are) in memory, so that answering a
request waits for nothing but the opening of one file.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

import trio

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.reference import Reference


class StoreError(Exception):
    """The store cannot be read now; the text says why and what the operator can do."""


class NotInStore(StoreError):
    """This content is not here, or not completely, or cannot be read."""


class Kind(StrEnum):
    """What a key leads to; a label of metrics."""

    TAG = "tag"
    INDEX = "index"
    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Added:
    """The store holds these keys now, complete and readable."""

    keys: frozenset[Key]


@dataclass(frozen=True, slots=True)
class Removed:
    """The store holds these keys no longer."""

    keys: frozenset[Key]


Change = Added | Removed


class Blob:
    """An open blob. `fileno` stays valid until `close`, also when the store deletes the blob meanwhile."""

    __slots__ = ("_fileno", "descriptor")

    def __init__(self, descriptor: Descriptor, fileno: int) -> None:
        self.descriptor = descriptor
        self._fileno = fileno

    @property
    def fileno(self) -> int:
        """The file descriptor, open for reading; positions are given with every read, never kept in it."""
        if self._fileno < 0:
            raise ValueError("the blob is closed")
        return self._fileno

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.descriptor.size

    def close(self) -> None:
        """Give the file descriptor back; again does nothing."""
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            os.close(fileno)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """A snapshot for metrics, readiness and the status page."""

    kind: str  # "containerd" or "layout"
    detail: str  # containerd's version, or the directory
    synchronised: bool  # the first walk is done
    answering: bool  # the store answered the last time it was asked
    problem: str  # why it does not answer, for the operator; empty when it does
    keys: dict[Kind, int]  # how many keys of each kind are held
    bytes: int  # the sum of the sizes of the blobs held
    download_slots: int = 0  # how many downloads go on at once over all pulls of this node; 0: no such limit


@dataclass(frozen=True, slots=True)
class Ingest:
    """Content that is being received, or was and is left over: `size` bytes of `total` are there.

    `modified`: when it last grew, in seconds since 1970; an old one is a leftover of a pull that ended.
    """

    digest: Digest
    size: int
    total: int
    modified: float


class GrowingBlob(Protocol):
    """Content that this node is receiving, open for reading while it grows; its bytes are not verified yet.

    The file descriptor stays valid when the content is committed (the same file) and when it is deleted. Nothing
    here blocks for more than a system call. It is what `peili.http` sends as a growing source.
    """

    @property
    def digest(self) -> Digest:
        """What it will be, if the bytes are right."""
        ...

    @property
    def total(self) -> int:
        """Length in bytes when it is whole; known before the first byte is there."""
        ...

    @property
    def fileno(self) -> int:
        """The file descriptor, open for reading; positions are given with every read. ValueError when closed."""
        ...

    def size(self) -> int:
        """How many bytes are there now. containerd writes about 1 MiB at a time."""
        ...

    def modified(self) -> float:
        """When it last grew, in seconds since 1970 (the file's time, coarse to some milliseconds)."""
        ...

    def vanished(self) -> bool:
        """Whether the file was deleted: the pull failed, was given up, or somebody else committed the digest."""
        ...

    def committed(self) -> bool:
        """Whether exactly this file is the store's verified content of the digest now."""
        ...

    def thrown_away(self) -> bool:
        """Whether the file was deleted and never was the store's content, as far as was seen.

        What is committed may be deleted a moment later: an image that is removed, layers that containerd discards
        once they are unpacked. Seen for certain from `watch` on, where there is inotify.
        """
        ...

    def ended(self) -> bool:
        """Whether it grows no more: committed or vanished. What `size` says is all there will be."""
        ...

    async def wait(self, beyond: int, timeout: float) -> bool:
        """Wait until more than `beyond` bytes are there; False when it ended before, or after `timeout` seconds.

        Woken by inotify where there is one, else by polling; any number of tasks may wait.
        """
        ...

    def watch(self) -> None:
        """Note what becomes of it from now on, as `wait` does; again does nothing."""
        ...

    def close(self) -> None:
        """Give the file descriptor back; again does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """A node's content, complete and readable. All but `run` and `open` answer from memory at once.

    `growing` and `ingests` look at files, a few system calls each; they never ask containerd.
    """

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Keep the index current until cancelled; call `task_status.started()` after the first whole walk.

        A store that does not answer (containerd not running yet, restarting) is tried again with backoff, for
        ever, and said in `statistics().problem`; keys that were known stay known while it is away.
        """
        ...

    def descriptor(self, digest: Digest) -> Descriptor | None:
        """What is held under this digest, or None."""
        ...

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What this reference's tag leads to here (an index or a manifest), or None; a digest in it is ignored."""
        ...

    async def open(self, digest: Digest) -> Blob:
        """Open a blob for reading. Raise NotInStore; the caller closes the Blob."""
        ...

    def growing(self, digest: Digest) -> GrowingBlob | None:
        """Open what this node receives of this digest right now, or None; the caller closes it.

        Not None says only that there is a file with a known total: it may hold no byte yet (containerd makes it
        before its first request) or be a leftover (`modified` is old). Growth after a moment is seen by keeping it
        open: `size` then, and `wait(size, timeout)`. Just after the commit it is the committed file.
        """
        ...

    def ingests(self) -> Collection[Ingest]:
        """Everything that is being received or left over, in no order; a bounded number of them."""
        ...

    def keys(self) -> Collection[Key]:
        """All keys held now: every readable digest, and every tag whose target is readable."""
        ...

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """A subscription. Its first item is Added(all keys held); then what comes and goes, in order.

        A slow reader gets merged changes, never an unbounded queue and never a lost one.
        """
        ...

    def statistics(self) -> StoreStatistics:
        """A frozen snapshot."""
        ...
