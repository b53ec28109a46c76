"""Files of a directory that others own: read without surprises, replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_PREFIX = ".peili-"
# A directory of registry settings holds a few small files; a larger one is not that (files; bytes of each).
MAXIMUM_BACKUP_FILES = 10_000
MAXIMUM_BACKUP_FILE_SIZE = 16 << 20

_ADVICE = {
    errno.EROFS: "the file system is read-only here; mount it writable for Peili",
    errno.EACCES: "run this as root, and look at SELinux or AppArmor",
    errno.EPERM: "run this as root, and see whether the file is immutable (lsattr)",
    errno.ENOSPC: "the file system is full",
    errno.EBUSY: "it is a mount point of its own; mount its directory instead",
    errno.ENOTDIR: "a part of the path is no directory",
}


class UnsafePath(Exception):
    """A path leads somewhere else than it seems to; it is neither read nor written."""


def explain(error: OSError) -> str:
    """An operating system's error for the operator."""
    advice = _ADVICE.get(error.errno or 0)
    reason = error.strerror or str(error)
    return f"{reason}: {advice}" if advice else reason


def read_inside(path: Path, root: Path, maximum: int) -> bytes | None:
    """A regular file's content, at most one byte more than `maximum`; None where there is none.

    Raise UnsafePath for a link that leads out of `root` and for what is no regular file, OSError otherwise.
    """
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        if path.is_symlink():
            raise UnsafePath("it is a symbolic link that leads nowhere; remove it or repair it") from None
        return None
    except RuntimeError as error:  # Python 3.11's word for a loop of links
        raise UnsafePath("it is a loop of symbolic links") from error
    if not real.is_relative_to(root):
        raise UnsafePath(f"it is a symbolic link out of {root}; put a file in its place")
    if not stat.S_ISREG(real.stat().st_mode):
        raise UnsafePath("it is no regular file")
    with real.open("rb") as file:
        return file.read(maximum + 1)


def write_atomic(path: Path, content: bytes, mode: int) -> None:
    """Replace a file, or a link, by this content; a reader sees the old or the new. Keep the file's owner."""
    with suppress(FileNotFoundError):
        before = path.lstat()
        if before.st_uid != os.geteuid() or before.st_gid != os.getegid():
            _write(path, content, mode, (before.st_uid, before.st_gid))
            return
    _write(path, content, mode, None)


def _write(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if owner is not None:
                with suppress(PermissionError):  # not root: the file becomes ours, which is all we can do
                    os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:  # also on a signal: no temporary file stays behind
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_tree(source: Path, target: Path, skip: frozenset[str]) -> None:
    """Copy files, links and directories with their modes, owners and times; `skip` names entries of the top.

    Raise UnsafePath where there is more than a directory of settings holds.
    """
    copied = 0

    def ignore(directory: str, names: list[str]) -> list[str]:
        nonlocal copied
        copied += len(names)
        if copied > MAXIMUM_BACKUP_FILES:
            raise UnsafePath(f"it holds more than {MAXIMUM_BACKUP_FILES} files: is it the right directory?")
        here = Path(directory)
        return [
            name
            for name in names
            if name.startswith(TEMPORARY_PREFIX) or (here == source and name in skip) or not _is_copied(here / name)
        ]

    shutil.copytree(source, target, symlinks=True, ignore=ignore, copy_function=_copy, dirs_exist_ok=True)


def _is_copied(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _copy(source: str, target: str) -> str:
    status = Path(source).stat()
    if status.st_size > MAXIMUM_BACKUP_FILE_SIZE:
        raise UnsafePath(f"{source} is larger than {MAXIMUM_BACKUP_FILE_SIZE} bytes: is it the right directory?")
    shutil.copy2(source, target)
    with suppress(PermissionError):
        os.chown(target, status.st_uid, status.st_gid)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target


def restore(copy: Path, path: Path) -> None:
    """Put a file or link back as its copy is: content, mode, owner and time; a reader sees the old or the new."""
    directory = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
    try:
        new = directory / path.name
        if copy.is_symlink():
            new.symlink_to(copy.readlink())
        else:
            _copy(str(copy), str(new))
        new.replace(path)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sync_directory(path.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a second run away from this directory; raise UnsafePath where one is at work."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnsafePath("another `peili configure` or `peili cleanup` is at work here; try again") from error
        yield
    finally:
        os.close(descriptor)
