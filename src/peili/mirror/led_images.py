"""The images that this node fetches first of all: their manifests are nobody's yet. Pure; times are the caller's.

An index and the manifest that it names are pushed together and pulled one after the other. Who was told to fetch
the index, because nobody has or fetches it, is asked for the manifest a moment later: the same question would get
the same answer, and containerd would wait for it.
"""

from __future__ import annotations

from collections import OrderedDict

from peili.oci.distribution import ContentTarget, ManifestTarget

SECONDS = 2.0  # from the answer about the index until the manifest is asked for
MAXIMUM_IMAGES = 256


class LedImages:
    """The repositories of which this node was told to fetch a manifest, lately."""

    def __init__(self) -> None:
        self._since: OrderedDict[tuple[str | None, str], float] = OrderedDict()

    def remember(self, target: ContentTarget, now: float) -> None:
        """The coordinators said Lead for this target; only manifests count."""
        if isinstance(target, ManifestTarget):
            key = (target.registry, target.repository)
            self._since[key] = now
            self._since.move_to_end(key)
            if len(self._since) > MAXIMUM_IMAGES:
                self._since.popitem(last=False)

    def next_one(self, target: ContentTarget, now: float) -> bool:
        """Whether this is the manifest that follows; each answer counts for one."""
        if not isinstance(target, ManifestTarget):
            return False
        since = self._since.pop((target.registry, target.repository), None)
        return since is not None and now - since < SECONDS
