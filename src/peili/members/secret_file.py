"""The file of the cluster secret: reading it, and noticing that it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import trio

from peili.members.secrets import MAXIMUM_FILE_SIZE, InvalidSecret, MemberKeys, parse_secrets

CHECK_INTERVAL: Final = 10.0  # seconds between two looks at the file


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret file, and the keys that it gave when it was read; the first are the ones that we use."""

    path: Path
    keys: tuple[MemberKeys, ...] = field(repr=False)


class Log(Protocol):
    """Takes the few events that are worth a line."""

    def __call__(self, event: str, **fields: object) -> None:
        """Log one event."""
        ...


def read_secrets(path: Path) -> SecretFile:
    """Read the file; raise InvalidSecret, which names the file and never repeats what is in it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_SIZE + 1)
        return SecretFile(path, parse_secrets(content))
    except OSError as error:
        raise InvalidSecret(f"{path} cannot be read: {error.strerror}") from error
    except InvalidSecret as error:
        raise InvalidSecret(f"{path}: {error}") from error


async def watch_secrets(current: SecretFile, changed: Callable[[tuple[MemberKeys, ...]], None], log: Log) -> None:
    """Read the file again at intervals for ever, and tell what is new in it.

    It is read, and not only looked at: Kubernetes replaces a secret volume's files by moving a symbolic link above
    them, with times that say little. A file that is gone or broken changes nothing: the node goes on with what it
    has, and says so once.
    """
    keys, problem = current.keys, ""
    while True:
        await trio.sleep(CHECK_INTERVAL)
        try:
            found = read_secrets(current.path)  # some bytes of a small file: no thread's work
        except InvalidSecret as error:
            if str(error) != problem:
                problem = str(error)
                log("the cluster secret stays as it was", problem=problem)
            continue
        problem = ""
        if found.keys != keys:
            keys = found.keys
            log("the cluster secret changed", accepted=len(keys))
            changed(keys)
