"""`peili cleanup`: containerd's registry directory as it was before `peili configure`."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from peili.containerd.backup import HOSTS_FILE, Backup, DamagedRecord, Written, find_backup
from peili.containerd.configure_settings import is_registry_directory
from peili.containerd.files import TEMPORARY_PREFIX, UnsafePath, explain, locked, read_inside, restore, write_atomic
from peili.containerd.hosts import MAXIMUM_HOSTS_FILE_SIZE, InvalidHostsFile, parse_hosts
from peili.containerd.hosts_merge import strip
from peili.containerd.reports import CleanupReport, Problem

FILE_MODE = 0o644
PRIVATE_MODE = 0o600


@dataclass(slots=True)
class Outcome:
    """What has been done so far."""

    restored: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cleanup(config_path: Path) -> CleanupReport:
    """Put everything back. Files that were edited since lose our hosts only. A second run finds nothing to do."""
    done = Outcome()
    try:
        root = config_path.resolve()
        if root.is_dir():
            with locked(root):
                _cleanup(root, done)
    except (UnsafePath, DamagedRecord) as error:
        done.problems.append(Problem(config_path, str(error)))
    except OSError as error:
        done.problems.append(Problem(Path(error.filename or config_path), explain(error)))
    lists = (done.restored, done.removed, done.kept, done.problems, done.notes)
    return CleanupReport(*(tuple(entries) for entries in lists))  # type: ignore[arg-type]


def _cleanup(root: Path, done: Outcome) -> None:
    backup = find_backup(root)
    files = dict(backup.record.files) if backup else {}
    for relative in [*files, *(found for found in marked_files(root) if found not in files)]:
        undo(root, relative, files.get(relative), backup, done)
    remove_temporary(root)
    if backup is None or done.problems:
        return
    record = backup.record
    remove_directories((root / name for name in record.created), done)
    shutil.rmtree(backup.path)
    if record.modified is not None:
        _set_time(root, record.modified)
    remove_directories((Path(name) for name in reversed(record.above)), done)


def undo(root: Path, relative: str, written: Written | None, backup: Backup | None, done: Outcome) -> None:
    """Put one file back; failures become problems."""
    path = root / relative
    try:
        _undo(root, relative, written, backup, done)
    except InvalidHostsFile as error:
        advice = "left alone: repair it, or take Peili's hosts out by hand, and run `peili cleanup` again"
        done.problems.append(Problem(path, f"{error}; {advice}", error.line))
    except UnsafePath as error:
        done.problems.append(Problem(path, str(error)))
    except OSError as error:
        done.problems.append(Problem(path, explain(error)))


def _undo(root: Path, relative: str, written: Written | None, backup: Backup | None, done: Outcome) -> None:
    path = root / relative
    current = read_inside(path, root, MAXIMUM_HOSTS_FILE_SIZE)
    copy = backup.copy_of(relative) if backup else None
    if current is None:
        if written is not None and copy is not None:
            done.notes.append(f"{path} was removed by hand since; it was not put back")
        return
    if written is not None and written.is_ours(current) and written.base is None:
        _put_back(path, copy, backup, done)
        return
    if written is not None and copy is not None and current == (backup.original(relative) if backup else None):
        return  # recorded, but never written
    if written is not None and written.is_ours(current) and written.base is not None:
        rest = written.base
    else:
        rest = without_ours(current, relative, written, backup)
    if rest.encode() == current:
        return
    if not rest.strip() and copy is None:
        _put_back(path, None, backup, done)
        return
    mode = copy.stat().st_mode if copy is not None and copy.exists() else FILE_MODE
    before = stat.S_IMODE(path.stat().st_mode)
    write_atomic(path, rest.encode(), stat.S_IMODE(mode) if before == PRIVATE_MODE else before)
    done.kept.append(path)
    done.notes.append(f"{path} was edited by hand since; only Peili's hosts were taken out")


def without_ours(current: bytes, relative: str, written: Written | None, backup: Backup | None) -> str:
    """An edited file without our hosts; raise InvalidHostsFile, UnsafePath, OSError."""
    try:
        original = parse_hosts((backup.original(relative) if backup else None) or b"")
    except InvalidHostsFile:
        original = parse_hosts("")
    targets = backup.record.targets if backup else ()
    return strip(parse_hosts(current), original, targets, replaced=written is not None and written.replaced)


def _put_back(path: Path, copy: Path | None, backup: Backup | None, done: Outcome) -> None:
    if copy is not None:
        restore(copy, path)
        done.restored.append(path)
    else:
        path.unlink()
        done.removed.append(path)
    if backup is None:
        # No record says who made the directory; an empty one would hide `_default`.
        with suppress(OSError):
            path.parent.rmdir()
            done.removed.append(path.parent)
        return
    before = backup.copy_of(str(path.parent.relative_to(backup.root)))
    if before is not None:
        _set_time(path.parent, before.stat().st_mtime_ns)


def _set_time(directory: Path, modified: int) -> None:
    with suppress(OSError):  # only its owner may; the time of a directory is a courtesy
        os.utime(directory, ns=(directory.stat().st_atime_ns, modified))


def remove_directories(directories: Iterable[Path], done: Outcome) -> None:
    """Remove directories that we made, where nobody has put anything into them."""
    for directory in directories:
        if not directory.is_dir() or directory.is_symlink():
            continue
        try:
            directory.rmdir()
            done.removed.append(directory)
        except OSError:
            done.notes.append(f"{directory} was made by Peili and is not empty; it stays")


def marked_files(root: Path, skip: Collection[str] = ()) -> Iterator[str]:
    """Files that carry our mark, whatever the record says."""
    for directory in sorted(root.iterdir()):
        relative = f"{directory.name}/{HOSTS_FILE}"
        if not is_registry_directory(directory.name) or relative in skip or not directory.is_dir():
            continue
        if directory.is_symlink():
            continue  # found by its real name, or not ours to touch
        with suppress(InvalidHostsFile, UnsafePath, OSError):
            content = read_inside(root / relative, root, MAXIMUM_HOSTS_FILE_SIZE)
            if content is not None and parse_hosts(content).is_marked:
                yield relative


def remove_temporary(root: Path) -> None:
    """Remove what a run left that was killed in the middle of writing."""
    for directory in (root, *(entry for entry in root.iterdir() if is_registry_directory(entry.name))):
        if not directory.is_dir() or directory.is_symlink():
            continue
        for entry in directory.glob(f"{TEMPORARY_PREFIX}*"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
