"""Build the image where no image registry can be reached: `python deploy/build_image.py`, as root.

A Debian made by mmdebstrap stands in for the Containerfile's base image, pip fetches the same pinned wheels, and
deploy/rootfs.py makes the same tree as in the Containerfile; the result is an OCI image layout in a tar file, which
`ctr images import`, skopeo and buildah read. Nothing is built twice: the file's name carries a digest of all that
went in. Needs the virtual environment of `make test`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where this script is run by its path

from deploy import dist, layout  # noqa: E402

SUITE = "trixie"  # of the Containerfile's base image, too
CACHE = ROOT / ".cache" / "image"
NAME = "localhost/peili"  # as buildah calls what it builds here; whoever publishes it gives it a name
KEPT_IMAGES = 4  # in the cache
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Linux's names, and those of Debian and OCI
# A wheel for an older glibc than the image's runs; pip takes the newest that fits. 2.17 is manylinux2014's.
OLDEST_GLIBC, NEWEST_GLIBC = 17, 41
# What `docker inspect` shows; the Containerfile says the same, and a test compares them.
IMAGE_CONFIG: dict[str, object] = {
    "User": "0:0",
    "Env": ["PATH=/usr/bin"],
    "Entrypoint": ["/usr/bin/peili"],
    "Cmd": ["run"],
    "WorkingDir": "/",
    "ExposedPorts": {"5000/tcp": {}, "5001/tcp": {}, "9090/tcp": {}},
    "Labels": {
        "org.opencontainers.image.title": "peili",
        "org.opencontainers.image.description": "A peer-to-peer image mirror for Kubernetes clusters",
        "org.opencontainers.image.licenses": "Apache-2.0",
    },
}


@dataclass(frozen=True, slots=True)
class Built:
    """The image: a tar file with an OCI layout, its name, and what is in it."""

    path: Path
    name: str
    digest: str  # of the manifest
    unpacked: int  # bytes that its files take
    compressed: int  # bytes that a pull moves


def build(cache: Path = CACHE, sources: Path | None = None) -> Built:
    """Build the image, or find it built. `sources` is an apt sources file of Debian; None: mmdebstrap's own."""
    cache.mkdir(parents=True, exist_ok=True)
    base = debian(cache, sources)
    with tempfile.TemporaryDirectory(prefix="work-", dir=cache) as directory:
        work = Path(directory)
        wheel = dist.build(work / "dist")[1]
        version = wheel.name.split("-")[1]
        output = cache / f"peili-{version}-{key(base, wheel)}.tar"
        name, sizes = f"{NAME}:{version}", output.with_suffix(".json")
        if not (output.exists() and sizes.exists()):
            install(base, wheel, work / "packages")
            assemble(base, work / "packages", work / "rootfs")
            machine = ARCHITECTURES[platform.machine()]
            packed = layout.pack(work / "rootfs", name, machine, IMAGE_CONFIG, output)
            sizes.write_text(json.dumps(asdict(packed)))
            forget_old(cache)
    return Built(output, name, **json.loads(sizes.read_text()))


def forget_old(cache: Path) -> None:
    """Keep the newest images only: every change of the sources makes one."""
    images = sorted(cache.glob("peili-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in images[KEPT_IMAGES:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def key(base: Path, wheel: Path) -> str:
    """A digest of everything that decides the image's content."""
    hasher = hashlib.sha256(platform.machine().encode())
    inputs = [HERE / "rootfs.py", HERE / "layout.py", HERE / "build_image.py", ROOT / "requirements/run.txt", wheel]
    for path in (*inputs, base / "var/lib/dpkg/status"):
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:16]


def debian(cache: Path, sources: Path | None) -> Path:
    """A Debian with python3, made once."""
    base = cache / SUITE
    if not base.exists():
        if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
            raise SystemExit("building the image takes root and Debian's package mmdebstrap")
        print(f"making a Debian {SUITE} with mmdebstrap", flush=True)
        with tempfile.TemporaryDirectory(prefix="base-", dir=cache) as name:
            tree = Path(name) / "tree"
            options = ["--quiet", "--mode=root", "--variant=minbase", "--include=python3,ca-certificates"]
            subprocess.run(
                ["mmdebstrap", *options, SUITE, str(tree), *([str(sources)] if sources else [])], check=True
            )
            tree.rename(base)
    return base


def install(base: Path, wheel: Path, packages: Path) -> None:
    """What the Containerfile's `pip install` does, by this machine's pip for the interpreter of `base`."""
    asked = inside(base, "/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    machine = platform.machine()
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--no-deps",
        "--upgrade",
        "--target",
        str(packages),
    ]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={asked.strip()}"]
    target += [*platforms, f"--platform=manylinux2014_{machine}"]
    requirements = str(ROOT / "requirements/run.txt")
    subprocess.run([*pip, *target, "--require-hashes", "-r", requirements], check=True)
    subprocess.run([*pip, *target, "--no-index", str(wheel)], check=True)


def assemble(base: Path, packages: Path, target: Path) -> None:
    """Run rootfs.py in `base`, as the Containerfile does, and take what it made."""
    build_directory = base / "build"
    shutil.rmtree(build_directory, ignore_errors=True)
    build_directory.mkdir()
    try:
        shutil.copyfile(HERE / "rootfs.py", build_directory / "rootfs.py")
        shutil.copytree(packages, build_directory / "packages", symlinks=True)
        words = ["/build/rootfs.py", "--packages", "/build/packages", "--to", "/build/rootfs"]
        inside(base, "/usr/bin/python3", *words)
        shutil.move(build_directory / "rootfs", target)
    finally:
        shutil.rmtree(build_directory, ignore_errors=True)


def inside(base: Path, *words: str) -> str:
    """Run a program with `base` as its root directory; return what it printed."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    command = ["chroot", str(base), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Read the command line, build, and print where the image is."""
    parser = argparse.ArgumentParser(description="Build the image without an image registry.")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--sources", type=Path, help="an apt sources file of Debian")
    arguments = parser.parse_args()
    built = build(arguments.cache, arguments.sources)
    print(f"{built.name} {built.digest}")
    print(f"{built.unpacked / 1e6:.1f} MB unpacked, {built.compressed / 1e6:.1f} MB to pull: {built.path}")


if __name__ == "__main__":
    main()
