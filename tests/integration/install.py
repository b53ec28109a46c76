"""Install what the integration tests need from Debian: `python3 tests/integration/install.py`, as root.

A C compiler, a registry and other programs, and three containerds: the machine's own, and those of the suites
trixie and sid, unpacked beside it under /var/cache/peili-test (PEILI_TEST_CACHE). Nothing is pinned: the versions
found are printed. Needs only Python's standard library, so that it can run before any virtual environment exists.
Everything that is there already stays as it is; a second run takes a moment.

Without root, or where something cannot be had, the tests that need it are skipped and say so. With
PEILI_REQUIRE_CONTAINERD=1 that is a failure here, and there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("PEILI_TEST_CACHE", "/var/cache/peili-test"))
SUITES = ("trixie", "sid")
# What to look for, and the packages that bring it.
PROGRAMS = {
    "cc": "gcc libc6-dev",
    "containerd": "containerd",
    "ctr": "containerd",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "tc": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "runc": "runc",
    "setpriv": "util-linux",
    "sysctl": "procps",
    "zstd": "zstd",
}
ROOT_FILE_SYSTEM = CACHE / "rootfs.tar"
ATTEMPTS = 4
ATTEMPT_TIMEOUT = 300.0  # seconds
PAUSE = 5.0  # seconds between attempts, times the number of the attempt
POLICY = Path("/usr/sbin/policy-rc.d")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "PATH": SYSTEM_PATH}


class InstallError(Exception):
    """Something that the tests need cannot be had; the text says what and why."""


@dataclass(frozen=True)
class DebianSource:
    """Where this machine's apt gets Debian from: a URI, and deb822 lines that say whom to trust."""

    uri: str
    codename: str
    trust: tuple[str, ...]

    def stanza(self, suite: str) -> str:
        """The deb822 text of a sources file for a suite of the same archive."""
        return "\n".join(
            ["Types: deb", f"URIs: {self.uri}", f"Suites: {suite}", "Components: main", *self.trust, ""]
        )


def run(*command: str, timeout: float = ATTEMPT_TIMEOUT, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it printed; raise InstallError with its last words."""
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-6:]
        raise InstallError(f"{' '.join(command[:3])} … ended with {done.returncode}: {' | '.join(said)}")
    return done.stdout


def run_again(*command: str, cwd: Path | None = None) -> str:
    """Like run, for what goes over the network: several attempts."""
    for attempt in range(1, ATTEMPTS):
        try:
            return run(*command, cwd=cwd)
        except InstallError as error:
            print(f"peili-test: attempt {attempt} of {ATTEMPTS}: {error}", flush=True)
            time.sleep(PAUSE * attempt)
    return run(*command, cwd=cwd)


def missing_packages() -> list[str]:
    """The packages of programs that are not on the path."""
    missing = [packages for program, packages in PROGRAMS.items() if not shutil.which(program, path=SYSTEM_PATH)]
    return sorted({package for packages in missing for package in packages.split()})


@contextmanager
def no_services() -> Iterator[None]:
    """While packages are installed, none of their services starts (policy-rc.d, see invoke-rc.d(8))."""
    if POLICY.exists():
        # Somebody has a policy: ours for the moment, theirs afterwards.
        kept = POLICY.with_name(f"policy-rc.d.peili-{os.getpid()}")
        POLICY.rename(kept)
    else:
        kept = None
    try:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if kept is not None:
            kept.rename(POLICY)


def running(program: str) -> set[int]:
    """The process ids of a program, by the name of its file."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (directory / "exe").readlink().name == program:
                found.add(int(directory.name))
        except OSError:
            continue  # it ended meanwhile, or is a thread of the kernel
    return found


def install_packages() -> None:
    """Install what is missing with apt-get; none of the services may run afterwards."""
    packages = missing_packages()
    if not packages:
        return
    print(f"peili-test: installing {', '.join(packages)}", flush=True)
    services = ("containerd", "docker-registry")
    before = {name: running(name) for name in services}
    with no_services():
        run_again("apt-get", "update", "-q")
        run_again("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)
    if left := [name for name in services if running(name) - before[name]]:
        raise InstallError(f"the installation started {', '.join(left)}, which would disturb the tests")
    if still := missing_packages():
        raise InstallError(f"still missing after the installation: {', '.join(still)}")


def debian_source() -> DebianSource:
    """Where apt gets this machine's Debian from; apt itself reads its configuration, in both of its formats."""
    codename = _os_release().get("VERSION_CODENAME", "bookworm")
    question = ("apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(ORIGIN)|$(SOURCESENTRY)")
    # apt shows only targets whose lists it has fetched.
    answers = run(*question) or (run_again("apt-get", "update", "-q") and run(*question))
    for line in sorted(set(answers.splitlines())):
        uri, found, origin, entry = line.split("|", 3)
        if origin == "Debian" and found == codename:
            return DebianSource(uri, codename, tuple(source_trust(entry)))
    raise InstallError(f"apt on this machine has no source for Debian {codename}")


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def source_trust(entry: str) -> list[str]:
    """Signed-By and Trusted of a source, as deb822 lines. `entry` is FILE:NUMBER, of a stanza or of a line."""
    name, _, number = entry.rpartition(":")
    path = Path(name)
    if path.suffix == ".sources":
        stanzas = _stanzas(path.read_text())
        return _fields(stanzas[int(number) - 1]) if int(number) <= len(stanzas) else []
    line = path.read_text().splitlines()[int(number) - 1]
    options = re.search(r"\[(.*?)\]", line)
    pairs = (option.partition("=") for option in options[1].split()) if options else ()
    names = {"signed-by": "Signed-By", "trusted": "Trusted"}
    return [f"{names[key.lower()]}: {value.replace(',', ' ')}" for key, _, value in pairs if key.lower() in names]


def _stanzas(text: str) -> list[list[str]]:
    """The stanzas of a deb822 file, without comments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    blocks = re.split(r"\n[ \t]*\n+", "\n".join(lines).strip("\n"))
    return [block.splitlines() for block in blocks if block.strip()]


def _fields(stanza: Sequence[str]) -> list[str]:
    """The lines of Signed-By and Trusted, with their continuations: a key may stand in the field itself."""
    kept: list[str] = []
    keep = False
    for line in stanza:
        if not line[:1].isspace():
            keep = line.partition(":")[0].strip().lower() in ("signed-by", "trusted")
        if keep:
            kept.append(line)
    return kept


def containerd_of(suite: str) -> Path:
    """Where the programs of a suite's containerd lie once it is fetched; "installed" is the machine's own."""
    return Path("/usr/bin") if suite == "installed" else CACHE / suite / "usr/bin"


def version(suite: str) -> str:
    """The version that this containerd says it is; raise InstallError where it does not run."""
    words = run(str(containerd_of(suite) / "containerd"), "--version", timeout=30).split()
    found = next((word for word in words if re.match(r"v?\d+\.\d+\.", word)), None)
    if found is None:
        raise InstallError(f"the containerd of {suite} names no version: {' '.join(words)[:200]}")
    return found


def fetch_suite(source: DebianSource, suite: str) -> None:
    """Fetch containerd of another suite and unpack it beside the installed one, with apt's state kept apart."""
    try:
        version(suite)
    except InstallError:
        pass
    else:
        return
    with OtherSuite.opened(source, suite) as other:
        other.unpack("containerd")
        shutil.rmtree(CACHE / suite, ignore_errors=True)
        other.tree.rename(CACHE / suite)
    version(suite)


@dataclass(frozen=True)
class OtherSuite:
    """Packages of another suite, unpacked into `tree` and not installed; apt's state is kept apart."""

    suite: str
    work: Path
    apt: tuple[str, ...]

    @classmethod
    @contextmanager
    def opened(cls, source: DebianSource, suite: str) -> Iterator[OtherSuite]:
        """With its lists, in a directory that is removed in the end. Raise InstallError."""
        with tempfile.TemporaryDirectory(prefix=f"{suite}-", dir=CACHE) as name:
            work = Path(name)
            # apt drops root for downloads and warns where it cannot write.
            work.chmod(0o755)
            apt = _apart(work, source.stanza(suite))
            run_again("apt-get", *apt, "update", "-q")
            yield cls(suite, work, tuple(apt))

    @property
    def tree(self) -> Path:
        """Where packages are unpacked."""
        return self.work / "tree"

    def depends(self, package: str) -> list[str]:
        """The names of what a package depends on."""
        said = run("apt-cache", *self.apt, "depends", f"{package}/{self.suite}")
        return [line.partition("Depends:")[2].strip() for line in said.splitlines() if " Depends:" in line]

    def unpack(self, *packages: str) -> None:
        """Fetch these and unpack them; raise InstallError."""
        for package in packages:
            run_again("apt-get", *self.apt, "download", "-q", f"{package}/{self.suite}", cwd=self.work)
            file = next(self.work.glob(f"{package}_*.deb"), None)
            if file is None:
                raise InstallError(f"apt fetched no {package} of {self.suite}")
            run("dpkg", "-x", str(file), str(self.tree))


def _apart(work: Path, sources: str) -> list[str]:
    """Options that give apt its own sources, lists and cache below `work`."""
    (work / "peili.sources").write_text(sources)
    for directory in ("lists/partial", "cache/archives/partial", "parts"):
        (work / directory).mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": work / "peili.sources",
        "Dir::Etc::sourceparts": work / "parts",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": work / "parts",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    return [f"-o{key}={value}" for key, value in options.items()]


def build_root_file_system(source: DebianSource) -> None:
    """A Debian root file system as a tar file: what the tests' real image is made of. Built once."""
    if ROOT_FILE_SYSTEM.exists():
        return
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=CACHE) as name:
        sources, made = Path(name) / "debian.sources", Path(name) / "rootfs.tar"
        sources.write_text(source.stanza(source.codename))
        command = ["--quiet", "--mode=root", "--variant=essential", '--aptopt=Acquire::Retries "3"']
        command += ["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
        run_again("mmdebstrap", *command, source.codename, str(made), str(sources))
        made.rename(ROOT_FILE_SYSTEM)


def install() -> list[str]:
    """Do all of it; return what could not be had, a line each."""
    problems = []
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        install_packages()
        source = debian_source()
        for suite in SUITES:
            try:
                fetch_suite(source, suite)
            except InstallError as error:
                problems.append(f"containerd of {suite}: {error}")
        try:
            build_root_file_system(source)
        except InstallError as error:
            problems.append(f"a Debian root file system: {error}")
    return problems


def main() -> int:
    """Install, print the versions found, and return the exit status."""
    required = os.environ.get("PEILI_REQUIRE_CONTAINERD") == "1"
    if os.geteuid() != 0:
        print("peili-test: not root, so nothing is installed and the tests with containerd are skipped")
        return 1 if required else 0
    try:
        problems = install()
    except InstallError as error:
        problems = [str(error)]
    for suite in ("installed", *SUITES):
        try:
            print(f"peili-test: containerd {suite}: {version(suite)}")
        except InstallError as error:
            problems.append(str(error))
    for problem in problems:
        print(f"peili-test: cannot be had: {problem}", file=sys.stderr)
    return 1 if problems and required else 0


if __name__ == "__main__":
    sys.exit(main())
