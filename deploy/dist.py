"""Build the sdist and, out of the sdist, the wheel: `python deploy/dist.py [--to dist]`.

Needs git and the pinned setuptools (requirements/test.txt). Works on a copy of the files that git knows (or would
add), because setuptools leaves `build/` behind in a tree, and puts what lies there into the next wheel.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# PEP 517: a backend is called in the directory of its project, and answers with the name of what it made.
CALL = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(target: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """Write the sdist and the wheel into `target` and return their paths: (sdist, wheel)."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peili-dist-") as name:
        work = Path(name)
        copy_tracked(source, work / "tree")
        sdist = _call("build_sdist", work / "tree", work)
        with tarfile.open(sdist) as archive:
            # Debian 12's Python 3.11.2 knows no filters yet; the archive is our own.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            archive.extractall(work / "sdist")  # noqa: S202
        # What people build from the sdist is what we publish.
        wheel = _call("build_wheel", work / "sdist" / sdist.name.removesuffix(".tar.gz"), work)
        return _move(sdist, target), _move(wheel, target)


def copy_tracked(source: Path, target: Path) -> None:
    """Copy what git knows or would add: no caches, no leftovers."""
    listing = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True).stdout.split(b"\0")
    for name in filter(None, names):
        path = source / os.fsdecode(name)
        if path.is_file():
            (target / os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / os.fsdecode(name))


def _call(hook: str, tree: Path, output: Path) -> Path:
    # A wheel's times come from there; without it they are those of this moment.
    environment = {"SOURCE_DATE_EPOCH": "315532800", **os.environ}
    done = subprocess.run(
        [sys.executable, "-c", CALL, hook, str(output)],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{hook} failed:\n{done.stdout}{done.stderr}")
    return output / done.stdout.splitlines()[-1]


def _move(path: Path, target: Path) -> Path:
    return Path(shutil.move(path, target / path.name))


def main() -> None:
    """Read the command line, build, and say what was built."""
    parser = argparse.ArgumentParser(description="Build the sdist and the wheel.")
    parser.add_argument("--to", type=Path, default=ROOT / "dist")
    for path in build(parser.parse_args().to):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
