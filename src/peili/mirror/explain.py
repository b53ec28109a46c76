"""Explain an image: for each of its parts, who has it and what this node would do. For people, not for pulls."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import trio

from peili.mirror.attempt import Wanted, Whole, close
from peili.mirror.lookup import Found, Lookup
from peili.oci.descriptor import Descriptor
from peili.oci.distribution import ManifestTarget
from peili.oci.key import Key, digest_key, tag_key
from peili.oci.reference import Reference
from peili.registry.policy import Policy
from peili.routing.protocol import Router
from peili.store.manifests import MAXIMUM_MANIFEST_BYTES, InvalidManifest, Manifest, parse_manifest
from peili.store.protocol import Kind, NotInStore, Store, StoreError

MAXIMUM_PARTS = 500  # of one image, over all its platforms
MAXIMUM_PROVIDERS = 20  # named of one part
_PARALLEL = 8


@dataclass(slots=True)
class Part:
    """One part of an image. `providers` are registry addresses of peers; `action` says what this node would do."""

    kind: str
    name: str  # the tag, or the digest
    size: int
    local: bool
    providers: list[str] = field(default_factory=list)
    action: str = ""


@dataclass(slots=True)
class Explanation:
    """What is known of an image; `problem` says why it could not be looked into further, or is empty."""

    image: str
    parts: list[Part] = field(default_factory=list)
    problem: str = ""


class Explainer:
    """Looks an image up as a pull would, without relaying a layer."""

    def __init__(self, store: Store, router: Router, lookup: Lookup, policy: Policy, *, timeout: float) -> None:
        """`timeout`: seconds for finding the providers of one part."""
        self._store = store
        self._router = router
        self._lookup = lookup
        self._policy = policy
        self._timeout = timeout

    async def explain(self, reference: Reference) -> Explanation:
        """Everything that can be found out about this image now."""
        explanation = Explanation(str(reference))
        root = ManifestTarget(reference.registry, reference.repository, reference.tag, reference.digest)
        if reference.digest is not None:
            root = ManifestTarget(reference.registry, reference.repository, None, reference.digest)
        refusal = self._policy.refuses(root)
        if refusal is not None:
            explanation.problem = f"left to upstream: {refusal.message}"
            return explanation
        await self._walk(explanation, root, reference)
        limit = trio.CapacityLimiter(_PARALLEL)
        async with trio.open_nursery() as nursery:
            for part in explanation.parts:
                nursery.start_soon(self._find, part, limit)
        return explanation

    async def _walk(self, explanation: Explanation, root: ManifestTarget, reference: Reference) -> None:
        if root.tag is not None:
            held = self._store.resolve(reference)
            explanation.parts.append(Part(Kind.TAG, tag_key(reference), 0, held is not None))
        waiting: list[ManifestTarget] = [root]
        while waiting and len(explanation.parts) < MAXIMUM_PARTS:
            target = waiting.pop(0)
            found = await self._read(target, reference)
            if found is None:
                if target is root:
                    explanation.problem = "no node has its manifest: a pull goes upstream"
                continue
            descriptor, manifest = found
            if target is root:
                self._add(explanation, manifest.kind, descriptor)
            for child in manifest.children[: MAXIMUM_PARTS - len(explanation.parts)]:
                self._add(explanation, child.kind, child.descriptor)
                if child.kind in (Kind.INDEX, Kind.MANIFEST):
                    waiting.append(ManifestTarget(root.registry, root.repository, None, child.descriptor.digest))

    def _add(self, explanation: Explanation, kind: Kind, descriptor: Descriptor) -> None:
        local = self._store.descriptor(descriptor.digest) is not None
        explanation.parts.append(Part(kind, str(descriptor.digest), descriptor.size, local))

    async def _read(self, target: ManifestTarget, reference: Reference) -> tuple[Descriptor, Manifest] | None:
        """A manifest and what it says, from here or from a peer; None where nobody has it, or it is none."""
        found = await self._read_here(target, reference) or await self._read_there(target)
        if found is None:
            return None
        try:
            return found[0], await trio.to_thread.run_sync(parse_manifest, found[1])
        except InvalidManifest:
            return None

    async def _read_here(self, target: ManifestTarget, reference: Reference) -> tuple[Descriptor, bytes] | None:
        descriptor = (
            self._store.resolve(reference) if target.digest is None else self._store.descriptor(target.digest)
        )
        if descriptor is None or descriptor.size > MAXIMUM_MANIFEST_BYTES:
            return None
        try:
            with await self._store.open(descriptor.digest) as blob:
                content = await trio.to_thread.run_sync(_read_file, blob.fileno, blob.size)
        except (NotInStore, StoreError, OSError):
            return None
        return descriptor, content

    async def _read_there(self, target: ManifestTarget) -> tuple[Descriptor, bytes] | None:
        outcome = await self._lookup.run(_key_of(target), Wanted(target))
        if not isinstance(outcome, Found):
            return None
        answer = outcome.answer
        await close(answer)  # of a manifest, only one at a time is looked into
        return (answer.descriptor, answer.body) if isinstance(answer, Whole) else None

    async def _find(self, part: Part, limit: trio.CapacityLimiter) -> None:
        async with limit:
            with trio.move_on_after(self._timeout):
                async with self._router.find_providers(Key(part.name)) as providers:
                    async for provider in providers:
                        part.providers.append(f"{provider.host}:{provider.port}")
                        if len(part.providers) >= MAXIMUM_PROVIDERS:
                            break
        part.action = "from this node" if part.local else "from a peer" if part.providers else "from upstream"


def _key_of(target: ManifestTarget) -> Key:
    if target.digest is not None:
        return digest_key(target.digest)
    return tag_key(Reference(target.registry or "", target.repository, target.tag))


def _read_file(fileno: int, size: int) -> bytes:
    return os.pread(fileno, size, 0)
