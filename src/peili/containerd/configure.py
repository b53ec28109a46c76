"""`peili configure`: our hosts into containerd's registry directory.

containerd takes the first directory that exists of host_port_, host:port and `_default`, and merges nothing
(containerd, docs/hosts.md). So where every registry is to be mirrored, every directory that exists is written, and
a new directory for one registry takes over what `_default` said for it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from pathlib import Path

from peili.containerd.backup import (
    HOSTS_FILE,
    MAXIMUM_RECORDED_TARGETS,
    Backup,
    DamagedRecord,
    Written,
    digest,
    find_backup,
    make_backup,
)
from peili.containerd.cleanup import (
    FILE_MODE,
    PRIVATE_MODE,
    Outcome,
    cleanup,
    remove_directories,
    remove_temporary,
    undo,
    without_ours,
)
from peili.containerd.configure_settings import (
    DEFAULT,
    ConfigureSettings,
    InvalidConfigureSetting,
    directory_name,
    is_registry_directory,
    mirror_hosts,
    registries,
)
from peili.containerd.files import UnsafePath, explain, locked, read_inside, write_atomic
from peili.containerd.hosts import MAXIMUM_HOSTS_FILE_SIZE, HostsFile, InvalidHostsFile, parse_hosts
from peili.containerd.hosts_merge import (
    Addition,
    MirrorHost,
    docker_certificates,
    inherited,
    lacks_certificates,
    merge,
    write_certificates,
)
from peili.containerd.reports import ConfigureReport, Problem
from peili.oci.upstream import Upstream

__all__ = ["ConfigureSettings", "InvalidConfigureSetting", "cleanup", "configure"]

DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True)
class _Want:
    """A directory to write, by its name, with the server of its registry where one was named."""

    name: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A file as it is to be. `fits`: nothing is to be done. `written` is for the record."""

    relative: str
    content: bytes
    mode: int
    fits: bool
    written: Written


def configure(settings: ConfigureSettings) -> ConfigureReport:
    """Write hosts.toml for every registry named, or for all.

    Raise InvalidConfigureSetting before anything is touched.
    Whatever cannot be written is a problem of the report; all other directories are configured nevertheless.
    """
    hosts = mirror_hosts(settings)
    wanted = registries(settings)
    try:
        root = settings.config_path.resolve()
        modified = root.stat().st_mtime_ns if root.is_dir() else None
        above = _make_directories(root)
        with locked(root):
            backup = find_backup(root) or make_backup(root, above, modified)
            run = _Run(settings, hosts, root, backup)
            return run.configure(wanted)
    except (UnsafePath, DamagedRecord) as error:
        return ConfigureReport(problems=(Problem(settings.config_path, str(error)),))
    except OSError as error:
        return ConfigureReport(problems=(Problem(Path(error.filename or settings.config_path), explain(error)),))


def _make_directories(root: Path) -> tuple[str, ...]:
    """Make the directory and what is missing above it; the answer names what was made, from the top."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(DIRECTORY_MODE)
    return tuple(str(path) for path in reversed(missing))


class _Run:
    """One run in one directory."""

    def __init__(
        self, settings: ConfigureSettings, hosts: tuple[MirrorHost, ...], root: Path, backup: Backup
    ) -> None:
        self.settings = settings
        self.hosts = hosts
        self.root = root
        self.backup = backup
        self.record = backup.record
        self.done = Outcome()
        self.private = any(host.authorization is not None for host in hosts)

    def names(self) -> list[str]:
        """The directories in which containerd may look, as they are now."""
        return sorted(entry.name for entry in self.root.iterdir() if is_registry_directory(entry.name))

    def configure(self, named: tuple[Upstream, ...]) -> ConfigureReport:
        remove_temporary(self.root)
        existing = self.names()
        wants = self._real([_Want(directory_name(registry.host, existing), registry.server) for registry in named])
        self._undo({want.name for want in wants} if named else {DEFAULT, *self._not_created()})
        if not named:
            wants = self._real([_Want(name) for name in dict.fromkeys([DEFAULT, *self._directories()])])
        plans = [plan for want in wants if (plan := self._plan(want)) is not None]
        self._record(plans)
        changed, unchanged = [], []
        for plan in plans:
            path = self.root / plan.relative
            if plan.fits:
                unchanged.append(path)
            elif self._write(path, plan):
                changed.append(path)
        put_back = (*self.done.restored, *self.done.removed, *self.done.kept)
        return ConfigureReport(
            tuple(changed), tuple(unchanged), put_back, tuple(self.done.problems), tuple(self.done.notes)
        )

    def _directories(self) -> list[str]:
        """What hides `_default`, files and broken links aside."""
        return [name for name in self.names() if (self.root / name).is_dir()]

    def _not_created(self) -> set[str]:
        names = {relative.rpartition("/")[0] for relative in self.record.files}
        return names - set(self.record.created)

    def _real(self, wants: list[_Want]) -> list[_Want]:
        """The directories behind links, each once; a link out of here is a problem."""
        found: dict[str, _Want] = {}
        for want in wants:
            try:
                real = (self.root / want.name).resolve()
            except (OSError, RuntimeError):
                self._problem(self.root / want.name, "it is a loop of symbolic links")
                continue
            if not real.is_relative_to(self.root) or real == self.root or real.is_relative_to(self.backup.path):
                where = f"it is a symbolic link out of {self.root}, which is not followed"
                self._problem(self.root / want.name, f"{where}; put a directory in its place")
            elif real.exists() and not real.is_dir():
                self._problem(self.root / want.name, "it is no directory; move it away")
            else:
                name = str(real.relative_to(self.root))
                found.setdefault(name, _Want(name, want.server))
        return list(found.values())

    def _plan(self, want: _Want) -> _Plan | None:
        path = self.root / want.name / HOSTS_FILE
        try:
            return self._planned(want)
        except InvalidHostsFile as error:
            advice = "left alone: repair it (containerd ignores it as it is) and run `peili configure` again"
            self._problem(path, f"{error}; {advice}", error.line)
        except UnsafePath as error:
            self._problem(path, str(error))
        except OSError as error:
            self._problem(path, explain(error))
        return None

    def _planned(self, want: _Want) -> _Plan:
        relative = f"{want.name}/{HOSTS_FILE}"
        path = self.root / relative
        current = read_inside(path, self.root, MAXIMUM_HOSTS_FILE_SIZE)
        before = self._before(relative, want.name)
        base = self._edited(relative, current, before)
        file = parse_hosts(before if base is None else base)
        ca, client = self._certificates(want.name, file)
        addition = Addition(self.hosts, want.server, ca, client)
        content = merge(file, addition, replace=not self.settings.prepend_existing).encode()
        parse_hosts(content)  # never write what containerd would not read
        mode = self._mode(relative, path, current)
        fits = current == content and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) == mode
        return _Plan(relative, content, mode, fits, self._written(relative, content, base, current))

    def _written(self, relative: str, content: bytes, base: str | None, current: bytes | None) -> Written:
        before = self.record.files.get(relative)
        new = Written(digest(content), not self.settings.prepend_existing, base)
        if before is None or current is None or not before.is_ours(current) or before.base != base:
            return new
        same = replace(before, previous=None) == new
        return before if same else replace(new, previous=digest(current))

    def _before(self, relative: str, name: str) -> bytes:
        """What a file held before us; for a directory that we make, what `_default` says in its place."""
        original = self.backup.original(relative)
        if original is not None:
            return original
        ours = name in self.record.created or not (self.root / name).exists()
        takes_over = ours and name != DEFAULT and self.settings.prepend_existing
        return self._from_default().encode() if takes_over else b""

    def _from_default(self) -> str:
        """What `_default` says; where containerd cannot read it, nothing, as now."""
        relative, directory = f"{DEFAULT}/{HOSTS_FILE}", self.root / DEFAULT
        if not directory.is_dir() or DEFAULT in self.record.created:
            return ""
        try:
            original = self.backup.original(relative) or b""
            current = read_inside(directory / HOSTS_FILE, self.root, MAXIMUM_HOSTS_FILE_SIZE)
            edited = self._edited(relative, current, original)
            file = parse_hosts(original if edited is None else edited)
        except (InvalidHostsFile, UnsafePath) as error:
            note = f"{directory / HOSTS_FILE} cannot be read and is not taken over: {error}"
            self.done.notes += [] if note in self.done.notes else [note]
            return ""
        prefix = f"../{DEFAULT}/"
        return write_certificates(*self._certificates(DEFAULT, file), prefix) + inherited(file, prefix)

    def _edited(self, relative: str, current: bytes | None, before: bytes) -> str | None:
        """The operator's own text where it is not what was there before us; else None."""
        written = self.record.files.get(relative)
        if written is not None and (current is None or written.is_ours(current)):
            return written.base
        if current is None or current == before:
            return None
        file = parse_hosts(current)
        if written is None and not file.is_marked:
            return file.text
        rest = without_ours(current, relative, written, self.backup)
        return None if rest.encode() == before else rest

    def _certificates(self, name: str, file: HostsFile) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """Docker's certificate files, which containerd reads only where no hosts.toml does its work."""
        directory = self.root / name
        if not lacks_certificates(file) or not directory.is_dir():
            return (), ()
        return docker_certificates({entry.name for entry in directory.iterdir() if not entry.is_dir()})

    def _mode(self, relative: str, path: Path, current: bytes | None) -> int:
        if self.private:
            return PRIVATE_MODE
        copy = self.backup.copy_of(relative)
        before = stat.S_IMODE(copy.stat().st_mode) if copy is not None and copy.exists() else FILE_MODE
        if current is None:
            return before
        mode = stat.S_IMODE(path.stat().st_mode)
        # 0600 was ours, for credentials that are gone now; any other mode is the operator's.
        return before if mode == PRIVATE_MODE and relative in self.record.files else mode

    def _undo(self, wanted: set[str]) -> None:
        """Put back what earlier runs wrote and this one does not name.

        Such a file's hosts would point nowhere one day; a directory that we made would hide `_default`.
        """
        undone = set()
        for relative, written in self.record.files.items():
            name = relative.rpartition("/")[0]
            if name in wanted:
                continue
            before = len(self.done.problems)
            undo(self.root, relative, written, self.backup, self.done)
            if len(self.done.problems) == before:
                undone.add(name)
        record = self.record
        remove_directories((self.root / name for name in sorted(undone & set(record.created))), self.done)
        files = {path: written for path, written in record.files.items() if path.rpartition("/")[0] not in undone}
        created = tuple(name for name in record.created if name not in undone)
        self.record = replace(record, files=files, created=created)

    def _record(self, plans: list[_Plan]) -> None:
        """Written before the files, so that a run that is killed leaves nothing behind that no record knows."""
        written = {plan.relative: plan.written for plan in plans}
        names = [plan.relative.rpartition("/")[0] for plan in plans]
        created = list(self.record.created)
        created += [name for name in names if name not in created and not (self.root / name).exists()]
        targets = dict.fromkeys([*(host.url for host in self.hosts), *self.record.targets])
        self.record = replace(
            self.record,
            files={**self.record.files, **written},
            created=tuple(created),
            targets=tuple(sorted(list(targets)[:MAXIMUM_RECORDED_TARGETS])),
        )
        self.backup = self.backup.save(self.record)

    def _write(self, path: Path, plan: _Plan) -> bool:
        try:
            if not path.parent.exists():
                path.parent.mkdir(DIRECTORY_MODE)
            write_atomic(path, plan.content, plan.mode)
        except OSError as error:
            self._problem(path, explain(error))
            return False
        return True

    def _problem(self, path: Path, message: str, line: int | None = None) -> None:
        if all(problem.path != path for problem in self.done.problems):
            self.done.problems.append(Problem(path, message, line))
