"""What is mirrored and offered, as the operator's settings say. Pure decisions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from peili.oci.distribution import ContentTarget, ManifestTarget, reference_text
from peili.oci.errors import ErrorCode, Refusal
from peili.oci.key import Key


@dataclass(frozen=True, slots=True)
class Policy:
    """Which content Peili takes part in.

    `registries`: the upstream registries (`host[:port]`) that are mirrored; empty means all of them.
    `filters`: references that match one of them (anywhere, as `registry/repository:tag` or `…@digest`) are left
    alone. `resolve_tags` False leaves all tags to upstream, `resolve_latest` False the tag `latest`.
    """

    registries: frozenset[str] = frozenset()
    filters: Sequence[re.Pattern[str]] = ()
    resolve_tags: bool = True
    resolve_latest: bool = True

    def registry_of(self, target: ContentTarget) -> str | None:
        """The upstream registry that a request is about: its `ns`, else the only one that is mirrored."""
        if target.registry is not None:
            return target.registry
        return next(iter(self.registries)) if len(self.registries) == 1 else None

    def with_registry(self, target: ContentTarget) -> ContentTarget:
        """The same target with its registry said: as filters name it, and a peer needs no settings of ours."""
        return replace(target, registry=self.registry_of(target))

    def refuses(self, target: ContentTarget) -> Refusal | None:
        """Why this request is left to upstream, or None where Peili takes part."""
        code = ErrorCode.MANIFEST_UNKNOWN if isinstance(target, ManifestTarget) else ErrorCode.BLOB_UNKNOWN
        if target.registry is not None and self.registries and target.registry not in self.registries:
            return Refusal(404, ErrorCode.NAME_UNKNOWN, f"the registry {target.registry} is not mirrored")
        text = reference_text(self.with_registry(target))
        if any(pattern.search(text) for pattern in self.filters):
            return Refusal(404, code, "a filter leaves this reference to upstream")
        if not isinstance(target, ManifestTarget) or target.tag is None:
            return None
        if self.registry_of(target) is None:
            text = "a tag needs the query `ns` with its registry, or exactly one mirrored registry in the settings"
            return Refusal(404, ErrorCode.NAME_UNKNOWN, text)
        return self._refuses_tag(target.tag)

    def offers(self, key: Key) -> bool:
        """Whether this node tells its peers of a key that it holds."""
        registry, slash, rest = key.partition("/")
        if not slash:
            return True  # a digest: which images use it is decided when it is asked for
        if self.registries and registry not in self.registries:
            return False
        if any(pattern.search(key) for pattern in self.filters):
            return False
        return self._refuses_tag(rest.rpartition(":")[2]) is None

    def _refuses_tag(self, tag: str) -> Refusal | None:
        if not self.resolve_tags:
            return Refusal(404, ErrorCode.MANIFEST_UNKNOWN, "tags are left to upstream (--no-resolve-tags)")
        if tag == "latest" and not self.resolve_latest:
            return Refusal(404, ErrorCode.MANIFEST_UNKNOWN, "`latest` is left to upstream (--no-resolve-latest)")
        return None
