"""Content that is still being received: ingests, as containerd's content store keeps them on disk.

An ingest is a directory `ingest/<sha256 of its reference>/` with the files `data` (grows by appending), `total`
(the final length, decimal, written before `data` exists) and `ref`. Its reference is `<namespace>/1/<key>`, its key
a kind, a hyphen and the digest (containerd, core/remotes/handlers.go, MakeRefKey; plugins/content/local), so the
path follows from the digest. A commit renames `data` to `blobs/<algorithm>/<hex>`: the file stays the same.
The layout store has the same form inside its directory, with LAYOUT_NAMESPACE in place of a containerd namespace.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import time
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Self

from peili.oci.digest import Digest, InvalidDigest
from peili.store.files import blob_name
from peili.store.growth import GrowthWatch, Pulse, wait_until
from peili.store.protocol import Ingest

LAYOUT_NAMESPACE = "layout"
INGEST_KINDS = ("layer", "config", "manifest", "index", "unknown", "attestation")  # the last since containerd 2.1
MAXIMUM_TOTAL_DIGITS = 19  # of a 64-bit length
MAXIMUM_REFERENCE_BYTES = 512
MAXIMUM_INGESTS = 1024  # looked at by one listing; a node has some tens
MAXIMUM_REMEMBERED = 1024  # files that were seen growing
REMEMBERED_SECONDS = 10.0  # far more than lies between the rename of a commit and the index knowing it
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class GrowingFile:
    """A GrowingBlob (see peili.store.protocol) over an open file. Owns `fileno`."""

    __slots__ = ("_committed_name", "_fileno", "_growth", "_pulse", "_was_committed", "digest", "total")

    def __init__(
        self,
        digest: Digest,
        total: int,
        fileno: int,
        committed_name: str,
        growth: GrowthWatch,
        *,
        was_committed: bool = False,
    ) -> None:
        """`committed_name`: where it is after its commit. `was_committed`: it is known to be there, or was."""
        self.digest = digest
        self.total = total
        self._fileno = fileno
        self._committed_name = committed_name
        self._growth = growth
        self._pulse: Pulse | None = None
        self._was_committed = was_committed

    @property
    def fileno(self) -> int:
        """The file descriptor; ValueError when closed."""
        if self._fileno < 0:
            raise ValueError("the growing blob is closed")
        return self._fileno

    def size(self) -> int:
        """How many bytes are there now."""
        return os.fstat(self.fileno).st_size

    def modified(self) -> float:
        """When it last grew, in seconds since 1970."""
        return os.fstat(self.fileno).st_mtime

    def vanished(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self.fileno).st_nlink == 0

    def committed(self) -> bool:
        """Whether the store's content of this digest is this file."""
        try:
            there = os.lstat(self._committed_name)
        except OSError:
            return False
        same = os.path.samestat(there, os.fstat(self.fileno))
        self._was_committed = self._was_committed or same
        return same

    def thrown_away(self) -> bool:
        """Whether the file was deleted and, as far as was seen, never was the store's content."""
        if not self.vanished() or self._was_committed:
            return False
        if self._pulse is None:
            return True
        self._growth.catch_up()
        return not self._pulse.moved

    def ended(self) -> bool:
        """Whether it grows no more."""
        return self.vanished() or self.committed()

    async def wait(self, beyond: int, timeout: float) -> bool:
        """Wait until more than `beyond` bytes are there; False when it ended before, or after `timeout` seconds."""
        self.watch()
        await wait_until(lambda: self.size() > beyond or self.ended(), self._pulse, timeout)
        return self.size() > beyond

    def watch(self) -> None:
        """Note what becomes of it from now on, as `wait` does; again does nothing."""
        if self._pulse is None:
            self._pulse = self._growth.enter(self.fileno)

    def close(self) -> None:
        """Give the file descriptor back; again does nothing."""
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            self._growth.leave(pulse)
        fileno, self._fileno = self._fileno, -1
        if fileno >= 0:
            os.close(fileno)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Ingests:
    """The ingests of one containerd namespace, or of a layout; `growth` wants to be run."""

    def __init__(self, namespace: str) -> None:
        self.growth = GrowthWatch()
        self._namespace = namespace
        self._remembered: OrderedDict[Digest, tuple[os.stat_result, float]] = OrderedDict()

    def open(self, root: Path, digest: Digest) -> GrowingFile | None:
        """The ingest of this digest under `root`, or what it became a moment ago; None where there is none."""
        found = [item for kind in INGEST_KINDS if (item := self._open(root, kind, digest)) is not None]
        if not found:
            return self._committed(root, digest)
        newest = max(found, key=GrowingFile.modified)
        for item in found:
            if item is not newest:
                item.close()
        self._remember(newest)
        return newest

    def list(self, root: Path) -> list[Ingest]:
        """All ingests of this namespace that name a digest and their total."""
        found = []
        try:
            with os.scandir(root / "ingest") as entries:
                for entry in itertools.islice(entries, MAXIMUM_INGESTS):
                    item = self._look_at(entry.path)
                    if item is not None:
                        found.append(item)
        except OSError:  # nothing was ever received here, or the store is away
            return []
        return found

    def _look_at(self, directory: str) -> Ingest | None:
        digest = parse_reference(_read(f"{directory}/ref", MAXIMUM_REFERENCE_BYTES), self._namespace)
        total = parse_total(_read(f"{directory}/total", MAXIMUM_TOTAL_DIGITS))
        if digest is None or total is None:
            return None
        try:
            data = os.lstat(f"{directory}/data")
        except OSError:
            return None
        return Ingest(digest, data.st_size, total, data.st_mtime)

    def _open(self, root: Path, kind: str, digest: Digest) -> GrowingFile | None:
        directory = ingest_name(root, self._namespace, kind, digest)
        fileno = _open_file(f"{directory}/data")
        if fileno is None:
            return None
        total = parse_total(_read(f"{directory}/total", MAXIMUM_TOTAL_DIGITS))
        if total is None:
            os.close(fileno)
            return None
        return GrowingFile(digest, total, fileno, blob_name(root, digest), self.growth)

    def _remember(self, item: GrowingFile) -> None:
        self._remembered[item.digest] = (os.fstat(item.fileno), time.monotonic())
        self._remembered.move_to_end(item.digest)
        if len(self._remembered) > MAXIMUM_REMEMBERED:
            self._remembered.popitem(last=False)

    def _committed(self, root: Path, digest: Digest) -> GrowingFile | None:
        """The committed file, if it is the very one that was seen growing in this namespace.

        The index knows of a commit some milliseconds late; who asks in between would be sent away for nothing.
        """
        seen, when = self._remembered.get(digest, (None, 0.0))
        if seen is None:
            return None
        fileno = _open_file(blob_name(root, digest)) if time.monotonic() - when < REMEMBERED_SECONDS else None
        if fileno is None:
            return None
        found = os.fstat(fileno)
        if not os.path.samestat(found, seen):
            os.close(fileno)
            return None
        return GrowingFile(digest, found.st_size, fileno, blob_name(root, digest), self.growth, was_committed=True)


def ingest_directory(root: Path, namespace: str, kind: str, digest: Digest) -> Path:
    """Where the ingest of this content lies."""
    return Path(ingest_name(root, namespace, kind, digest))


def ingest_name(root: Path, namespace: str, kind: str, digest: Digest) -> str:
    """The same as a text, for every request: a Path takes longer to make than to open.

    And it interns its parts, which Python 3.12 never forgets: names that a client makes up would fill the memory.
    """
    return f"{root}/ingest/{hashlib.sha256(ingest_reference(namespace, kind, digest).encode()).hexdigest()}"


def ingest_reference(namespace: str, kind: str, digest: Digest) -> str:
    """What the ingest's `ref` says."""
    return f"{namespace}/1/{kind}-{digest}"


def parse_reference(text: bytes | None, namespace: str) -> Digest | None:
    """The digest in the reference of one of this namespace's ingests; None for every other text."""
    prefix = f"{namespace}/1/".encode()
    if text is None or not text.startswith(prefix):
        return None
    kind, _, name = text.removeprefix(prefix).decode("ascii", "replace").partition("-")
    try:
        return Digest.parse(name) if kind in INGEST_KINDS else None
    except InvalidDigest:
        return None


def parse_total(text: bytes | None) -> int | None:
    """The length in a `total` file; None where it says none."""
    if text is None or not text.isdigit() or len(text) > MAXIMUM_TOTAL_DIGITS:
        return None
    return int(text)


def _read(name: str, maximum: int) -> bytes | None:
    """A file's content; None where it is missing, cannot be read or is longer than `maximum` bytes."""
    fileno = _open_file(name)
    if fileno is None:
        return None
    try:
        content = os.read(fileno, maximum + 1)
    except OSError:
        return None
    finally:
        os.close(fileno)
    return content if len(content) <= maximum else None


def _open_file(name: str) -> int | None:
    """A regular file's descriptor, or None."""
    try:
        fileno = os.open(name, _FLAGS)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fileno).st_mode):
        os.close(fileno)
        return None
    return fileno
