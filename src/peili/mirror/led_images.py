"""The images that this node fetches first of all: their manifests and configs are nobody's yet. Pure; times are the
caller's.

An index, the manifest that it names, and the config that this names are pushed together, and pulled one after
another. Who was told to fetch the index, because nobody has or fetches it, is asked for the others a moment later:
the same question would get the same answer, and containerd would wait for it.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Flag, auto

from peili.oci.distribution import ContentTarget, ManifestTarget

SECONDS = 2.0  # from the answer about the index, or the manifest, until the next one is asked for
MAXIMUM_IMAGES = 256


class Next(Flag):
    """What may follow a manifest that this node was told to fetch."""

    MANIFEST = auto()
    CONFIG = auto()


class LedImages:
    """The repositories of which this node was told to fetch a manifest, lately, and what may follow."""

    def __init__(self) -> None:
        self._led: OrderedDict[tuple[str | None, str], tuple[float, Next]] = OrderedDict()

    def remember(self, target: ContentTarget, now: float) -> None:
        """The coordinators said Lead for this target; only manifests count."""
        if isinstance(target, ManifestTarget):
            self._expect(target, now, Next.MANIFEST | Next.CONFIG)

    def next_one(self, target: ContentTarget, now: float) -> bool:
        """Whether this is the manifest or the config that follows; each answer counts for one of both.

        Of blobs the caller passes small ones only: the first of them is the config, or as small as one.
        """
        since, expected = self._led.pop((target.registry, target.repository), (0.0, Next(0)))
        wanted = Next.MANIFEST if isinstance(target, ManifestTarget) else Next.CONFIG
        if not expected or now - since >= SECONDS:
            return False
        if wanted not in expected:
            self._expect(target, since, expected)
            return False
        if wanted is Next.MANIFEST:
            self._expect(target, now, Next.CONFIG)
        return True

    def _expect(self, target: ContentTarget, now: float, expected: Next) -> None:
        self._led[target.registry, target.repository] = now, expected
        self._led.move_to_end((target.registry, target.repository))
        if len(self._led) > MAXIMUM_IMAGES:
            self._led.popitem(last=False)
