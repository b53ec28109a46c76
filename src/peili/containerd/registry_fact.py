"""What containerd says of its registry settings, or else its configuration: the facts behind config_path."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

import trio

from peili.containerd.errors import ContainerdError
from peili.containerd.facts import RegistryFact
from peili.containerd.files import explain
from peili.containerd.plugin_settings import (
    CRI_PLUGIN,
    MAXIMUM_CONFIG_SIZE,
    InvalidContainerdConfig,
    read_plugin_settings,
)

CALL_SECONDS = 5.0  # for each question to containerd


async def ask_cri(socket: Path, file: str) -> RegistryFact | None:
    """containerd's own word (1.6 and 1.7); None where it does not tell. `file`: where it is to be changed."""
    from peili.containerd.cri import Cri  # noqa: PLC0415 half a megabyte that a node with containerd 2.x spares

    with Cri(socket) as cri, trio.move_on_after(CALL_SECONDS):
        try:
            config = (await cri.status()).config()
        except ContainerdError:
            return None
        return registry_from_cri(config or {}, file)
    return None


def registry_from_cri(config: Mapping[str, object], file: str) -> RegistryFact | None:
    """The registry settings in the CRI's verbose status; None where they are not there."""
    registry, containerd = config.get("registry"), config.get("containerd")
    if not isinstance(registry, dict) or "configPath" not in registry:
        return None
    discard = containerd.get("discardUnpackedLayers") if isinstance(containerd, dict) else None
    return RegistryFact(
        "containerd's CRI says so",
        file,
        CRI_PLUGIN,
        str(registry["configPath"] or "") or None,
        discard if isinstance(discard, bool) else None,
        bool(registry.get("mirrors") or registry.get("configs")),
    )


def read_config(path: Path, version: tuple[int, int, int] | None) -> RegistryFact:
    """What config.toml and its imports say; blocks. `version`: containerd's, where it is known."""
    file = str(path)
    try:
        found = read_plugin_settings(path, _read, _expand, version[0] if version else None)
    except InvalidContainerdConfig as error:
        return RegistryFact("", file, "", detail=str(error))
    except OSError as error:
        return RegistryFact("", file, "", detail=f"{path}: {explain(error)}")
    unread = f", without {', '.join(found.unread)}" if found.unread else ""
    return RegistryFact(
        f"{', '.join(found.files)}{unread}",
        file,
        found.section,
        found.config_path,
        found.discard_unpacked_layers,
        found.mirrors,
        complete=not found.unread,
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as file:
        return file.read(MAXIMUM_CONFIG_SIZE + 1)


def _expand(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))  # noqa: PTH207 the pattern is absolute and may have any number of stars
