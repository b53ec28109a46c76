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


class Store(Protocol):
    """A node's content, complete and readable. All but `run` and `open` answer from memory at once."""

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
