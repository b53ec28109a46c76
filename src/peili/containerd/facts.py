"""Facts that both `peili check` and a running node look at. By themselves, because a node has little memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class RegistryFact:
    """containerd's registry settings. `source` says who told, empty where nobody could. None: not set or not told.

    `section` is the plugin under which config_path belongs; `file` is where it is to be written. Not `complete`: a
    file that is imported could not be read, and may say otherwise.
    """

    source: str
    file: str
    section: str
    config_path: str | None = None
    discard_unpacked_layers: bool | None = None
    mirrors: bool = False
    detail: str = ""
    complete: bool = True


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The numbers of containerd's version (`1.6.20~ds1`, `v2.1.0`), or None."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None
