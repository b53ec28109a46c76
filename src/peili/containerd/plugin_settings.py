"""containerd's config.toml, as far as mirroring goes: registry config_path and discard_unpacked_layers.

Needed from containerd 2.0 on, where the CRI does not tell its settings (and of 1.x when it does not answer).
Versions 2 and 3 of the file name the section differently. What a file imports comes after it: in 1.x a plugin's
section replaces the whole earlier one, from 2.0 on they are merged key by key (containerd, LoadConfig).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MAXIMUM_CONFIG_SIZE = 4 << 20  # bytes of one file
MAXIMUM_IMPORTS = 64
CRI_PLUGIN = "io.containerd.grpc.v1.cri"
IMAGES_PLUGIN = "io.containerd.cri.v1.images"
Table = Mapping[str, object]


class InvalidContainerdConfig(ValueError):
    """A config.toml that cannot be read: the text names the file."""


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """What the files say; None where they say nothing.

    `section` is where config_path belongs, `files` what was read. `mirrors`: the old registry.mirrors or
    registry.configs tables are used, which exclude config_path. `unread` are imported files that could not be read.
    """

    version: int
    section: str
    config_path: str | None
    discard_unpacked_layers: bool | None
    mirrors: bool
    files: tuple[str, ...]
    unread: tuple[str, ...] = ()


Reader = Callable[[Path], bytes]
Globber = Callable[[str], list[str]]


def read_plugin_settings(path: Path, read: Reader, expand: Globber, major: int | None) -> PluginSettings:
    """Read a config.toml and what it imports.

    `read` gives a file's content or raises OSError; `expand` gives the paths that fit a pattern; `major` is
    containerd's major version where it is known. Raise InvalidContainerdConfig, and OSError for the first file.
    """
    pending, seen, unread = [path], list[str](), list[str]()
    version = 0
    plugins: dict[str, object] = {}
    while pending and len(seen) < MAXIMUM_IMPORTS:
        current = pending.pop(0)
        if str(current) in seen:
            continue
        try:
            config = _parse(current, read(current))
        except OSError:
            if current == path:
                raise
            unread.append(str(current))
            continue
        seen.append(str(current))
        version = version or _version(config)
        _merge(plugins, _table(config, "plugins"), deep=(major or 2) >= 2)
        pending += _imports(current, config, expand)
    return _settings(plugins, version, (tuple(seen), tuple(unread)), major)


def _parse(path: Path, content: bytes) -> Table:
    if len(content) > MAXIMUM_CONFIG_SIZE:
        raise InvalidContainerdConfig(f"{path} is larger than {MAXIMUM_CONFIG_SIZE} bytes")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, too deep
        raise InvalidContainerdConfig(f"{path} is not TOML: {error}") from error


def _version(config: Table) -> int:
    version = config.get("version")
    return version if isinstance(version, int) and 1 <= version <= 100 else 1


def _imports(path: Path, config: Table, expand: Globber) -> list[Path]:
    names = config.get("imports", [])
    found: list[Path] = []
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and "\0" not in name:
            full = str(path.parent / name)
            found += [Path(entry) for entry in expand(full)] if "*" in name else [Path(full)]
    return found[:MAXIMUM_IMPORTS]


def _merge(target: dict[str, object], source: Table, *, deep: bool) -> None:
    for key, value in source.items():
        before = target.get(key)
        if deep and isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value, deep=True)
        else:
            target[key] = value


def _settings(
    plugins: Table, version: int, files: tuple[tuple[str, ...], tuple[str, ...]], major: int | None
) -> PluginSettings:
    # Version 2 of the file is still read by containerd 2 and says the same under the older name.
    old = _table(plugins, CRI_PLUGIN) or _table(plugins, "cri")
    images = _table(plugins, IMAGES_PLUGIN) if major != 1 else {}
    registries = [_table(images, "registry"), _table(old, "registry")]
    section = IMAGES_PLUGIN if version >= 3 and major != 1 else CRI_PLUGIN
    paths = [path for table in registries if isinstance(path := table.get("config_path"), str)]
    discards = [images.get("discard_unpacked_layers"), _table(old, "containerd").get("discard_unpacked_layers")]
    return PluginSettings(
        version,
        section,
        paths[0] if paths else None,
        next((value for value in discards if isinstance(value, bool)), None),
        any(table.get(key) for table in registries for key in ("mirrors", "configs")),
        *files,
    )


def _table(parent: Table, key: str) -> Table:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}
