"""Install what the tests of the chart need: `python3 tests/chart/install.py`.

helm, built by Go from its module, and promtool out of Debian's package prometheus (which is not installed), both
into /var/cache/peili-test/bin (PEILI_TEST_CACHE). Needs only Python's standard library and `apt-get`: where no
`go` can build helm, Debian sid's is unpacked, used and removed. What is there already stays; a second run takes a
moment.

Where one cannot be had, the tests that need it are skipped and say so. With PEILI_REQUIRE_CONTAINERD=1, as in
CI, that is a failure here, and there.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)  # it runs as a script too

from tests.integration import install as debian  # noqa: E402 it needs the path above

CACHE = Path(os.environ.get("PEILI_TEST_CACHE", "/var/cache/peili-test"))
HELM = CACHE / "bin/helm"
PROMTOOL = CACHE / "bin/promtool"
MODULE = "helm.sh/helm/v3/cmd/helm@v3.22.0"
GO_PLACES = "/usr/local/go/bin:/usr/lib/go/bin:/usr/local/bin:/usr/bin"
OLDEST_GO = (1, 21)  # from here on it fetches the one that a module asks for
BUILD_TIMEOUT = 900.0  # seconds; helm brings much of Kubernetes along
ATTEMPTS = 3
PAUSE = 5.0  # seconds between attempts, times the number of the attempt


class InstallError(Exception):
    """A program cannot be had; the text says why."""


def required() -> bool:
    """Whether a test that cannot run is a failure."""
    return os.environ.get("PEILI_REQUIRE_CONTAINERD") == "1"


def version(helm: Path) -> str:
    """What a helm says it is; raise InstallError where it does not run, or is not of version 3."""
    try:
        done = subprocess.run(
            [helm, "version", "--short"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{helm} does not run: {error}") from error
    said = done.stdout.strip()
    if done.returncode or not re.match(r"v3\.", said):
        raise InstallError(f"{helm} is no helm 3: {said or done.stderr.strip()[:200]}")
    return said


def find_helm() -> Path:
    """The helm to use: ours, else the one on the path; raise InstallError."""
    try:
        version(HELM)
    except InstallError as error:
        other = shutil.which("helm")
        if other is None:
            raise InstallError(f"{error}; run tests/chart/install.py") from error
        version(Path(other))
        return Path(other)
    return HELM


def find_promtool() -> Path:
    """The promtool to use: ours, else the one on the path; raise InstallError."""
    other = shutil.which("promtool")
    if PROMTOOL.exists() or other is None:
        run(PROMTOOL, "--version")
        return PROMTOOL
    return Path(other)


def run(program: str | Path, *arguments: str | Path, timeout: float = 300.0, cwd: Path | None = None) -> None:
    """Run a program to its end; raise InstallError with its last words."""
    command = [str(program), *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{program}: {error}") from error
    if done.returncode:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise InstallError(f"{' '.join(command[:3])} … ended with {done.returncode}: {said}")


def fetch_promtool() -> None:
    """Take promtool out of Debian's package; raise InstallError."""
    with tempfile.TemporaryDirectory(prefix="prometheus-", dir=CACHE) as name:
        work = Path(name)
        work.chmod(0o755)  # apt drops root for downloads
        try:
            run("apt-get", "download", "-q", "prometheus", cwd=work)
        except InstallError:  # lists that were never fetched, or are old
            run("apt-get", "update", "-q")
            run("apt-get", "download", "-q", "prometheus", cwd=work)
        package = next(work.glob("prometheus_*.deb"), None)
        if package is None:
            raise InstallError("apt fetched no prometheus")
        run("dpkg-deb", "-x", package, work / "tree")
        PROMTOOL.parent.mkdir(parents=True, exist_ok=True)
        (work / "tree/usr/bin/promtool").rename(PROMTOOL)


def find_go() -> str | None:
    """A go program that can build helm, or None."""
    return next(
        (go for go in (shutil.which("go"), shutil.which("go", path=GO_PLACES)) if go and can_build(go)), None
    )


def can_build(go: str) -> bool:
    """Whether it builds what needs a newer one than itself, by fetching that (go.dev/doc/toolchain)."""
    try:
        said = subprocess.run(
            [go, "version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            cwd="/",
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"\bgo(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST_GO


@contextmanager
def go_of_debian() -> Iterator[str]:
    """The newest go of Debian, which runs on older ones too; raise InstallError."""
    try:
        with debian.OtherSuite.opened(debian.debian_source(), "sid") as sid:
            compiler = next((name for name in sid.depends("golang-go") if name.endswith("-go")), None)
            if compiler is None:
                raise InstallError("Debian sid's golang-go names no compiler")
            sid.unpack(compiler, compiler.removesuffix("-go") + "-src")
            (go,) = sid.tree.glob("usr/lib/go-*/bin/go")
            yield str(go)
    except debian.InstallError as error:
        raise InstallError(f"no go program, which builds helm, and none to be had from Debian: {error}") from error


def build() -> None:
    """Build helm; raise InstallError."""
    if HELM.exists():
        return  # somebody else was faster
    go = find_go()
    if go is not None:
        build_with(go)
        return
    with go_of_debian() as fetched:
        build_with(fetched)


def build_with(go: str) -> None:
    """Build helm with this go; raise InstallError."""
    print(f"peili-test: building {MODULE}, which takes a few minutes", flush=True)
    HELM.parent.mkdir(parents=True, exist_ok=True)
    others = {name: value for name, value in os.environ.items() if name != "GOROOT"}  # of another go
    environment = {**others, "GOBIN": str(HELM.parent), "CGO_ENABLED": "0"}
    environment.setdefault("HOME", str(CACHE))
    for attempt in range(1, ATTEMPTS + 1):
        try:
            done = subprocess.run(
                [go, "install", "-trimpath", "-ldflags=-s -w", MODULE],
                check=False,
                env=environment,
                cwd=HELM.parent,
                capture_output=True,
                text=True,
                timeout=BUILD_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallError(f"go install {MODULE}: {error}") from error
        if done.returncode == 0:
            return
        said = " | ".join(done.stderr.strip().splitlines()[-4:])
        print(f"peili-test: go install, attempt {attempt} of {ATTEMPTS}: {said}", flush=True)
        time.sleep(PAUSE * attempt)
    raise InstallError(f"go install {MODULE} failed {ATTEMPTS} times: {said}")


def install(find: Callable[[], Path], make: Callable[[], None]) -> Path:
    """Have a program, made where it is not there; raise InstallError."""
    try:
        return find()
    except InstallError:
        pass
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock.chart").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make()
    except OSError as error:
        raise InstallError(f"{CACHE}: {error.strerror}") from error
    return find()


def main() -> int:
    """Install, print what there is, and return the exit status."""
    problems = []
    for name, find, make in (("helm", find_helm, build), ("promtool", find_promtool, fetch_promtool)):
        try:
            print(f"peili-test: {name}: {install(find, make)}", flush=True)
        except InstallError as error:
            problems.append(f"{name} cannot be had, so tests of the chart are skipped: {error}")
    for problem in problems:
        print(f"peili-test: {problem}", file=sys.stderr)
    return 1 if problems and required() else 0


if __name__ == "__main__":
    sys.exit(main())
