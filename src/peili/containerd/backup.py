"""The record of what was there before `peili configure`: `_backup` in containerd's registry directory.

It holds a copy of the whole tree, made once, and `peili.json`: which files were written, with what content, and
which directories were made. containerd never looks there, for no registry's name begins with an underscore.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peili.containerd.configure_settings import is_registry_directory
from peili.containerd.files import (
    TEMPORARY_PREFIX,
    UnsafePath,
    copy_tree,
    read_inside,
    sync_directory,
    write_atomic,
)
from peili.containerd.hosts import MAXIMUM_HOSTS_FILE_SIZE, InvalidHostsFile, parse_hosts
from peili.containerd.hosts_merge import strip

HOSTS_FILE = "hosts.toml"
RECORD_FILE = "peili.json"
# The second name is for a node where another program keeps its own backup under the first.
BACKUP_NAMES = ("_backup", "_backup_peili")
MAXIMUM_RECORD_SIZE = 16 << 20
MAXIMUM_RECORDED_TARGETS = 256
_FORMAT = 1


class DamagedRecord(Exception):
    """The record cannot be read: nothing is touched until somebody has looked."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file as we wrote it: its sha256, whether the hosts in it were dropped, and what it held before.

    `base` is None where that is the copy in the backup (or nothing), else the text that the operator made of it.
    `previous` is the sha256 of what we had written before that, for a run that did not get as far as this file.
    """

    sha256: str
    replaced: bool = False
    base: str | None = None
    previous: str | None = None

    def is_ours(self, content: bytes) -> bool:
        """Whether this content is ours, with no edit by hand."""
        return digest(content) in {self.sha256, self.previous}


@dataclass(frozen=True, slots=True)
class Record:
    """What we did here.

    Paths are relative to the directory, those in `above` (made by us too) absolute. `modified` is the directory's
    time before us, in nanoseconds, None where it did not exist.
    """

    files: Mapping[str, Written] = field(default_factory=dict)
    created: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    modified: int | None = None


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that exists."""

    root: Path
    path: Path
    record: Record

    def original(self, relative: str) -> bytes | None:
        """A file's content before us; None where there was none. Raise UnsafePath, OSError."""
        return read_inside(self.path / relative, self.root, MAXIMUM_HOSTS_FILE_SIZE)

    def copy_of(self, relative: str) -> Path | None:
        """The copy of a file or directory before us; None where there was none."""
        copy = self.path / relative
        return copy if os.path.lexists(copy) else None

    def save(self, record: Record) -> Backup:
        """Write the record where it differs."""
        if record != self.record:
            write_atomic(self.path / RECORD_FILE, _dump(record), 0o600)
        return Backup(self.root, self.path, record)


def digest(content: bytes) -> str:
    """How a file's content is remembered."""
    return hashlib.sha256(content).hexdigest()


def find_backup(root: Path) -> Backup | None:
    """Our backup in this directory; raise DamagedRecord, UnsafePath, OSError."""
    for name in BACKUP_NAMES:
        content = read_inside(root / name / RECORD_FILE, root, MAXIMUM_RECORD_SIZE)
        if content is not None:
            return Backup(root, root / name, _load(root / name / RECORD_FILE, content))
    return None


def make_backup(root: Path, above: tuple[str, ...], modified: int | None) -> Backup:
    """Copy the tree as it is; the copy appears whole or not at all. Raise UnsafePath, OSError.

    Where an older backup of ours was lost, our own hosts are in the tree: they do not count as what was there.
    """
    target = next((root / name for name in BACKUP_NAMES if not os.path.lexists(root / name)), None)
    if target is None:
        raise UnsafePath(f"both {' and '.join(BACKUP_NAMES)} are taken by another program; move one away")
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=root))
    try:
        copy_tree(root, temporary, frozenset(BACKUP_NAMES))
        temporary.chmod(0o700)  # copies of keys and headers are nobody else's
        created = _without_ours(temporary)
        record = Record(created=created, above=above, modified=modified)
        write_atomic(temporary / RECORD_FILE, _dump(record), 0o600)
        temporary.rename(target)
    except BaseException:  # also on a signal: no half copy stays behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(root)
    return Backup(root, target, record)


def _without_ours(copy: Path) -> tuple[str, ...]:
    created = []
    for directory in sorted(copy.iterdir()):
        file = directory / HOSTS_FILE
        if not is_registry_directory(directory.name) or directory.is_symlink() or not file.is_file():
            continue
        try:
            parsed = parse_hosts(file.read_bytes())
            rest = strip(parsed, parse_hosts(""), ()) if parsed.is_marked else None
        except InvalidHostsFile:
            continue
        if rest is None:
            continue
        if rest.strip():
            file.write_text(rest)
            continue
        file.unlink()
        if not any(directory.iterdir()):
            directory.rmdir()
            created.append(directory.name)
    return tuple(created)


def _dump(record: Record) -> bytes:
    files = {
        path: {
            "sha256": written.sha256,
            "replaced": written.replaced,
            "base": written.base,
            "previous": written.previous,
        }
        for path, written in sorted(record.files.items())
    }
    value = {
        "format": _FORMAT,
        "files": files,
        "created": list(record.created),
        "above": list(record.above),
        "targets": list(record.targets),
        "modified": record.modified,
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _load(path: Path, content: bytes) -> Record:
    try:
        return parse_record(content)
    except DamagedRecord as error:
        raise DamagedRecord(
            f"{path}: {error}; the old files are beside it: put them back by hand, then remove {path.parent}"
        ) from error


def parse_record(content: bytes) -> Record:
    """Read a record; raise DamagedRecord on anything else."""
    try:
        value = json.loads(content)
        if value["format"] != _FORMAT:
            raise DamagedRecord(f"written by another version of Peili (format {value['format']!r})")
        record = Record(
            {_relative(path): _written(entry) for path, entry in value["files"].items()},
            tuple(_relative(path) for path in value["created"]),
            tuple(_text(path) for path in value["above"]),
            tuple(_text(url) for url in value["targets"]),
            value["modified"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedRecord(f"the record of `peili configure` is damaged ({type(error).__name__})") from error
    if not isinstance(record.modified, int | None):
        raise DamagedRecord("the record of `peili configure` is damaged (time)")
    return record


def _written(entry: Mapping[str, object]) -> Written:
    return Written(
        _text(entry["sha256"]), entry["replaced"] is True, _optional(entry["base"]), _optional(entry["previous"])
    )


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a text")
    return value


def _relative(value: object) -> str:
    """A path inside the directory: a record must not lead a cleanup to other files."""
    text = _text(value)
    if text.startswith("/") or not text or ".." in Path(text).parts:
        raise ValueError("not a path inside")
    return text
