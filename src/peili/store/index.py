"""The index in memory that both stores keep: which content there is, and which keys are offered. No I/O.

A store tells it what it finds (`put`, `remove`, `set_image`, `remove_image`), reads the manifests that `unread`
asks for and hands them to `learn`, and then calls `publish`: that decides what is offered and tells the readers.

    index.replace_content(found); index.replace_images(names)
    while unread := index.unread():
        for item in unread: ...read_manifest(path, item) in a thread, then index.learn or index.remove...
    index.publish()

Offered is a digest whose content is there and complete, and a tag whose target is offered: a tag helps whoever asks
for it as soon as its index can be read, for the index's children are looked up one by one, each by its own digest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.key import Key, digest_key, tag_key
from peili.oci.media_types import OCTET_STREAM
from peili.oci.reference import Reference
from peili.store.changes import Subscriptions
from peili.store.manifests import MAXIMUM_MANIFEST_BYTES, Child, Manifest, image_tag_key, kind_of
from peili.store.protocol import Change, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAXIMUM_DIGESTS = 100_000  # held or named by a manifest: about 40 MB
MAXIMUM_IMAGES = 50_000
_ABSENT = -1
_MANIFEST_KINDS = (Kind.INDEX, Kind.MANIFEST)


class Evidence(IntEnum):
    """How sure a store is that content is complete."""

    WRITING = 0  # somebody may still write it: offered only where a descriptor names exactly this size
    WHOLE = 1  # nobody writes it any more: offered unless a descriptor names another size
    VERIFIED = 2  # the store checked its digest (containerd's commit does): offered


@dataclass(frozen=True, slots=True)
class Unread:
    """Content that must be read before it can be offered; `kind` UNKNOWN where only its bytes can tell."""

    digest: Digest
    size: int
    kind: Kind


class _Entry:
    """A digest that is held, or that a manifest or an image names, or both."""

    __slots__ = ("children", "evidence", "kind", "media_type", "namers", "read", "said", "size")

    def __init__(self) -> None:
        self.size = _ABSENT
        self.said = _ABSENT  # the size that a descriptor gives it
        self.evidence = Evidence.WRITING
        self.media_type = OCTET_STREAM
        self.kind = Kind.UNKNOWN
        self.namers = 0  # how many manifests and images here name it
        self.read = False
        self.children: tuple[Key, ...] = ()

    @property
    def complete(self) -> bool:
        if self.size == _ABSENT or self.evidence is Evidence.VERIFIED:
            return self.size != _ABSENT
        return self.size == self.said or (self.said == _ABSENT and self.evidence is Evidence.WHOLE)

    @property
    def to_read(self) -> bool:
        may_be_manifest = self.kind in _MANIFEST_KINDS or self.kind is Kind.UNKNOWN
        return may_be_manifest and not self.read and 0 < self.size <= MAXIMUM_MANIFEST_BYTES and self.complete

    @property
    def offered(self) -> bool:
        return self.complete and not self.to_read


class StoreIndex:
    """What is held and what is offered. The answers change only with `publish`, but for what is removed."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._images: dict[str, Key] = {}  # name -> target
        self._tags: dict[Key, Key] = {}  # tag -> target
        self._tags_of: dict[Key, tuple[Key, ...]] = {}  # target -> tags
        self._touched: set[Key] = set()
        self._unread: set[Key] = set()
        self._offered: set[Key] = set()
        self._subscriptions = Subscriptions()
        self._counted: tuple[dict[Kind, int], int] | None = None  # see _count; None where something has changed
        self._full = False

    # What a store tells

    def put(self, digest: Digest, size: int, evidence: Evidence) -> None:
        """Content is there with `size` bytes. For an unchanged size the evidence only grows."""
        key = digest_key(digest)
        entry = self._entry(key)
        if entry is None or (entry.size == size and entry.evidence >= evidence):
            return
        if entry.size not in (size, _ABSENT):
            self._unlearn(entry)
        entry.size, entry.evidence = size, evidence
        self._touch(key, entry)

    def remove(self, digest: Digest) -> None:
        """Content is gone, or cannot be read."""
        key = digest_key(digest)
        entry = self._entries.get(key)
        if entry is not None and entry.size != _ABSENT:
            entry.size, entry.evidence = _ABSENT, Evidence.WRITING
            self._unlearn(entry)
            self._touch(key, entry)

    def set_image(self, name: str, target: Descriptor) -> None:
        """An image is there under this name, or leads to another target now; any name will do."""
        key = digest_key(target.digest)
        if self._images.get(name) == key:
            return
        self.remove_image(name)
        if len(self._images) >= MAXIMUM_IMAGES or not self._describe(Child(target, kind_of(target.media_type))):
            self._full = True
            return
        self._images[name] = key
        tag = image_tag_key(name)
        if tag is not None:
            self._tags[tag] = key
            self._tags_of[key] = (*self._tags_of.get(key, ()), tag)
            self._touched.add(tag)

    def remove_image(self, name: str) -> None:
        """No image is there under this name any more."""
        target = self._images.pop(name, None)
        if target is None:
            return
        tag = image_tag_key(name)
        if tag is not None:
            self._touched.add(tag)
            if self._tags.get(tag) == target:
                del self._tags[tag]
            others = tuple(other for other in self._tags_of.pop(target, ()) if other != tag)
            if others:
                self._tags_of[target] = others
        self._unname(target)

    def replace_content(self, found: Mapping[Digest, tuple[int, Evidence]]) -> None:
        """A whole walk found exactly this content."""
        self._full = False
        kept = {digest_key(digest) for digest in found}
        for key in [key for key, entry in self._entries.items() if entry.size != _ABSENT and key not in kept]:
            self.remove(Digest.parse(key))
        for digest, (size, evidence) in found.items():
            self.put(digest, size, evidence)

    def replace_images(self, found: Mapping[str, Descriptor]) -> None:
        """A whole walk found exactly these images, by name."""
        for name in [name for name in self._images if name not in found]:
            self.remove_image(name)
        for name, target in found.items():
            self.set_image(name, target)

    def unread(self) -> list[Unread]:
        """What the store must read now and give to `learn`, or `remove` where it cannot be read or is corrupt.

        What is named as a manifest comes first: most of the rest is what these name, and need not be read.
        """
        waiting = ((key, self._entries.get(key)) for key in self._unread)
        unread = [(key, entry) for key, entry in waiting if entry is not None and entry.to_read]
        self._unread = {key for key, _ in unread}
        named = [(key, entry) for key, entry in unread if entry.kind in _MANIFEST_KINDS]
        return [Unread(Digest.parse(key), entry.size, entry.kind) for key, entry in named or unread]

    def learn(self, digest: Digest, manifest: Manifest | None) -> None:
        """What reading gave: a manifest whose bytes have this digest, or None where it is something else."""
        key = digest_key(digest)
        entry = self._entries.get(key)
        if entry is None or entry.size == _ABSENT or entry.read:
            return
        entry.read = True
        if manifest is not None:
            # The content's own word first; its shape only where no descriptor says something that fits.
            if manifest.declared or kind_of(entry.media_type) is not manifest.kind:
                entry.media_type = manifest.media_type
            entry.kind, entry.evidence = manifest.kind, Evidence.VERIFIED
            named = {digest_key(child.descriptor.digest): child for child in manifest.children}
            entry.children = tuple(child_key for child in named.values() if (child_key := self._describe(child)))
        self._touch(key, entry)

    def publish(self) -> None:
        """Offer what is to be offered now, withdraw the rest, and tell the readers once."""
        touched, self._touched = self._touched, set()
        self._counted = None
        for key in list(touched):
            touched.update(self._tags_of.get(key, ()))
        offered = {key for key in touched if self._is_offered(key)}
        added, removed = offered - self._offered, (touched - offered) & self._offered
        self._offered |= added
        self._offered -= removed
        self._subscriptions.tell(added, removed)

    # What a store answers

    def descriptor(self, digest: Digest) -> Descriptor | None:
        """What is offered under this digest, or None."""
        key = digest_key(digest)
        entry = self._entries.get(key)
        if entry is None or key not in self._offered or not entry.offered:
            return None
        return Descriptor(digest, entry.media_type, entry.size)

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What this reference's tag leads to, or None; a digest in it is ignored."""
        target = self._tags.get(tag_key(reference)) if reference.tag is not None else None
        return self.descriptor(Digest.parse(target)) if target is not None else None

    def keys(self) -> Collection[Key]:
        """All keys offered, as a copy."""
        return frozenset(self._offered)

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """A subscription, as Store.changes says."""
        return self._subscriptions.open(self._offered)

    def counts(self) -> dict[Kind, int]:
        """How many keys of each kind are offered."""
        return dict(self._count()[0])

    @property
    def bytes(self) -> int:
        """The sum of the sizes of the content offered."""
        return self._count()[1]

    @property
    def full(self) -> bool:
        """Whether content or images were left out because there are too many of them."""
        return self._full

    # Within

    def _count(self) -> tuple[dict[Kind, int], int]:
        """What is offered: keys of each kind, bytes in all. Kept, for somebody asks every second."""
        if self._counted is None:
            counts, size = dict.fromkeys(Kind, 0), 0
            for key in self._offered:
                entry = self._entries.get(key)
                counts[entry.kind if entry is not None else Kind.TAG] += 1
                size += max(entry.size, 0) if entry is not None else 0
            self._counted = counts, size
        return self._counted

    def _entry(self, key: Key) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= MAXIMUM_DIGESTS:
                self._full = True
                return None
            entry = self._entries[key] = _Entry()
        return entry

    def _touch(self, key: Key, entry: _Entry) -> None:
        self._touched.add(key)
        self._counted = None
        if entry.to_read:
            self._unread.add(key)
        if entry.size == _ABSENT and not entry.namers:
            self._entries.pop(key, None)

    def _describe(self, child: Child) -> Key | None:
        """A manifest or an image names this content; its key, or None where there is no room for it."""
        key, described = digest_key(child.descriptor.digest), child.descriptor
        entry = self._entry(key)
        if entry is None:
            return None
        entry.namers += 1
        # Whoever says index or manifest is believed first, for that is checked by reading it.
        checked = child.kind in _MANIFEST_KINDS and entry.kind not in _MANIFEST_KINDS
        if checked or entry.kind is Kind.UNKNOWN:
            entry.kind = child.kind
        if checked or entry.media_type == OCTET_STREAM:
            entry.media_type = described.media_type
        # Where descriptors disagree on the size, the one that agrees with the content is right.
        if entry.said == _ABSENT or described.size == entry.size:
            entry.said = described.size
        self._touch(key, entry)
        return key

    def _unlearn(self, entry: _Entry) -> None:
        children, entry.children, entry.read = entry.children, (), False
        for key in children:
            self._unname(key)

    def _unname(self, key: Key) -> None:
        """One less names this content. What it is does not change; how long it must be is no longer said."""
        entry = self._entries[key]
        entry.namers -= 1
        if not entry.namers:
            if entry.complete:
                entry.evidence = max(entry.evidence, Evidence.WHOLE)
            entry.said = _ABSENT
        self._touch(key, entry)

    def _is_offered(self, key: Key) -> bool:
        entry = self._entries.get(self._tags.get(key, key))
        return entry is not None and entry.offered
