"""Does containerd ask a mirror at all? Looked at while a node runs, because it decides whether the node is ready.

What `peili check` says of config_path, as far as it is certain: what nobody told, or what differs between versions
that Peili does not know, is no reason to call a node unready.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from peili.containerd.client import Client
from peili.containerd.errors import ContainerdError
from peili.containerd.facts import RegistryFact, parse_version
from peili.containerd.registry_fact import CALL_SECONDS, ask_cri, read_config

LOOK_EVERY: Final = 60.0  # seconds; containerd reads its configuration when it starts, which takes no longer to see
LOOK_AGAIN: Final = 10.0  # seconds, while something is wrong or containerd does not answer
_TELLS_NOTHING = (2, 0, 0)  # from here on the CRI keeps its registry settings to itself
_LISTS_IGNORED = (2, 1, 0)  # from here on a list of directories is taken for one (containerd issue 12808)
_LIST_BY_DEFAULT = (2, 2, 0)
_NOT_KNOWN = (2, 3, 0)
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SetupSettings:
    """Where to look.

    `config_path`: the directory that Peili writes; None: not compared. `config_file`: containerd's own
    configuration, read where containerd does not tell (2.x); None: not read.
    """

    socket: Path
    namespace: str
    config_path: Path | None = None
    config_file: Path | None = None


class ContainerdSetup:
    """Looks again and again. `problem` is empty while containerd may ask us, and as long as nothing is known."""

    def __init__(self, settings: SetupSettings) -> None:
        self._settings = settings
        self._looked = False
        self._problem = ""

    @property
    def looked(self) -> bool:
        """Whether the first look is over."""
        return self._looked

    @property
    def problem(self) -> str:
        """Why containerd asks no mirror, in a sentence."""
        return self._problem

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            answered = await self._look()
            self._looked = True
            await trio.sleep(LOOK_EVERY if answered and not self._problem else LOOK_AGAIN)

    async def _look(self) -> bool:
        """Whether containerd answered. While it is down the last word counts."""
        settings = self._settings
        version = None
        with Client(settings.socket, settings.namespace) as client, trio.move_on_after(CALL_SECONDS):
            try:
                version = parse_version((await client.version()).version)
            except ContainerdError:
                return False
        if version is None:
            return False
        file = settings.config_file
        fact = await ask_cri(settings.socket, str(file or "config.toml")) if version < _TELLS_NOTHING else None
        if fact is None and file is not None:
            fact = await trio.to_thread.run_sync(read_config, file, version)
        self._problem = certain_problem(fact, settings.config_path, version) if fact is not None else ""
        return fact is not None


def certain_problem(fact: RegistryFact, wanted: Path | None, version: Version) -> str:
    """Why this containerd certainly asks no mirror of ours; empty where it may."""
    if not fact.source or not fact.complete:
        return ""
    path = fact.config_path
    if path is None and version >= _LIST_BY_DEFAULT:
        return _list("is not set, which means a list of directories", fact, version)
    if not path:
        return _sentence(f"registry config_path is not set ({fact.source})", fact)
    if ":" in path and version >= _LISTS_IGNORED:
        return _list(f"names several directories ({path})", fact, version)
    if wanted is not None and all(Path(one) != wanted for one in path.split(":")):
        return _sentence(f"it reads {path}, and Peili writes {wanted}", fact)
    return ""


def _list(what: str, fact: RegistryFact, version: Version) -> str:
    """Lists are split as long as layers are discarded, which keeps the transfer service from being used."""
    if fact.discard_unpacked_layers or version >= _NOT_KNOWN:
        return ""
    return _sentence(f"registry config_path {what}, of which this version reads none", fact)


def _sentence(what: str, fact: RegistryFact) -> str:
    return f"containerd asks no mirror: {what}; `peili check` has the lines for {fact.file}"
