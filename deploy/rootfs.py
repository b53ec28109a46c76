"""Make the image's root file system out of a Debian that has python3: run as root in that Debian.

    python3 deploy/rootfs.py --packages DIRECTORY --to DIRECTORY

The Containerfile runs it in its build stage, `deploy/build_image.py` in a Debian made by mmdebstrap: the same
steps either way. What goes in: the interpreter, the part of its standard library that a service can use, the
shared libraries that these ask for and no others, the certificates of public authorities (`--bootstrap https:`),
and the installed packages. No shell, no package manager, no other program. What is left out of it, and why, stands
beside each name below. Nothing here names an architecture.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType

# Parts of the standard library that nothing in the image imports (tests/image imports every module that is left).
UNUSED_MODULES = (
    "__phello__", "antigravity", "this", "turtle", "turtledemo",  # toys
    "test", "idlelib", "tkinter", "lib2to3", "pydoc_data", "pydoc", "doctest", "unittest",  # for developers
    "_pyrepl", "curses", "rlcompleter", "cmd", "code", "codeop", "pdb", "bdb",  # nobody types at it
    "cProfile", "profile", "pstats", "trace", "modulefinder", "pyclbr", "tabnanny",
    "ensurepip", "venv", "zipapp", "EXTERNALLY-MANAGED",  # nothing is installed into it
    "dbm", "sqlite3", "shelve", "plistlib", "wave", "colorsys",  # file formats
    "xmlrpc", "smtplib", "poplib", "imaplib", "ftplib", "mailbox", "netrc", "webbrowser",  # protocols
    "xml",  # no XML anywhere; with it goes libexpat's bindings
    "multiprocessing",  # one process; concurrent.futures imports it only for its process pool
    "_aix_support", "_android_support", "_apple_support", "_ios_support", "_osx_support",  # other systems
)  # fmt: skip
# Extension modules: those of the modules above, CPython's own tests, and East Asian codecs older than UTF-8.
UNUSED_EXTENSIONS = re.compile(
    r"(_test|_xxtest|xx|_ctypes_test|_codecs_(cn|hk|iso2022|jp|kr|tw)|_multibytecodec|_curses|_dbm|_gdbm|_sqlite3"
    r"|_tkinter|_lsprof|readline|_multiprocessing|_posixshmem|_interp|_elementtree|pyexpat|_uuid)"
)
# In the installed packages.
UNUSED_IN_PACKAGES = (
    "bin",  # console scripts with the builder's interpreter in their first line; ours is written below
    "*.dist-info/RECORD", "*.dist-info/direct_url.json",  # for uninstalling; they name the builder's paths
    "**/_tests", "**/tests",  # trio's own tests are two thirds of it
    "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.proto", "**/py.typed", "**/*.h",  # for compilers
    "pycparser", "pycparser-*.dist-info",  # cffi asks for it to parse C declarations; ours are compiled already
    "cffi/recompiler.py", "cffi/setuptools_ext.py", "cffi/vengine_*.py", "cffi/ffiplatform.py",  # C compilers
)  # fmt: skip
HASH_BASED_UNCHECKED = 0b01  # flags of a .pyc file: it has a hash of its source, and nobody compares it
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\n",
    "etc/group": "root:x:0:\n",
    # Without it glibc asks DNS before it looks into /etc/hosts.
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# -I: neither the environment nor the working directory nor a home directory adds code.
# -B: nothing is written; the byte code is there already.
LAUNCHER = "#!{python} -IB\nfrom peili.cli import main\n\nmain()\n"


def main() -> None:
    """Read the command line and make the tree."""
    parser = argparse.ArgumentParser(description="Make the image's root file system.")
    parser.add_argument("--packages", type=Path, required=True, help="what `pip install --target` wrote")
    parser.add_argument("--to", type=Path, required=True, help="an empty or missing directory")
    arguments = parser.parse_args()
    build(arguments.packages, arguments.to)


def build(packages: Path, root: Path) -> None:
    """Make the tree below `root`."""
    skeleton(root)
    interpreter = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    # Debian's python3 looks for local packages there (site.py).
    installed = Path("/usr/local/lib", library.name, "dist-packages")
    copy(interpreter, root)
    below(root, "/usr/bin/python3").symlink_to(interpreter.name)
    copy_standard_library(library, root)
    shutil.copytree(packages, below(root, installed), symlinks=True)
    remove_unused(below(root, installed))
    copied = [CERTIFICATES, interpreter]
    copy(CERTIFICATES, root)
    for path in shared_libraries(interpreter, elf_files(root)):
        copy(path, root)
        copied.append(path)
    launcher = below(root, "/usr/bin/peili")
    launcher.write_text(LAUNCHER.format(python="/usr/bin/python3"))
    launcher.chmod(0o755)
    keep_notices([*copied, library / "os.py", library / "asyncio/events.py"], root)
    compile_all(root)
    no_programs_but(launcher.parent, root)


def skeleton(root: Path) -> None:
    """Directories, links of a merged /usr as Debian has them, and small files."""
    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for link in ("/bin", "/lib", "/lib32", "/lib64", "/sbin"):
        if Path(link).is_symlink():
            target = Path(link).readlink()
            below(root, link).symlink_to(target)
            (root / target).mkdir(parents=True, exist_ok=True)
    for name, text in TEXTS.items():
        (root / name).write_text(text)
    copy(Path("/etc/os-release").resolve(), root)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")


def below(root: Path, path: str | Path) -> Path:
    """An absolute path, below another root."""
    return root / Path(path).relative_to("/")


def copy(path: Path, root: Path) -> None:
    """Copy a file to the same place below `root`."""
    target = below(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    target.chmod(stat.S_IMODE(path.stat().st_mode))


def copy_standard_library(library: Path, root: Path) -> None:
    """Copy the standard library but for what is unused."""

    def skip(directory: str, names: list[str]) -> set[str]:
        found = {name for name in names if name == "__pycache__" or name.startswith("config-")}
        if Path(directory) == library:
            found |= {name for name in names if name.removesuffix(".py") in UNUSED_MODULES}
        if Path(directory).name == "lib-dynload":
            found |= {name for name in names if UNUSED_EXTENSIONS.match(name)}
        return found

    shutil.copytree(library, below(root, library), ignore=skip, symlinks=False)


def remove_unused(packages: Path) -> None:
    """Remove from the packages what a running Peili never reads; licences stay where they are (*.dist-info)."""
    for pattern in UNUSED_IN_PACKAGES:
        for path in sorted(packages.glob(pattern), reverse=True):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def elf_files(root: Path) -> Iterator[Path]:
    """Programs and shared libraries in the tree."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def shared_libraries(interpreter: Path, files: Iterable[Path]) -> list[Path]:
    """What the dynamic linker loads for these files from outside their packages, and the linker itself.

    The linker is asked, not guessed (`ld.so --list`): its name and its search path differ between architectures.
    """
    linker = program_interpreter(interpreter)
    found = {linker}
    for file in files:
        done = subprocess.run([str(linker), "--list", str(file)], capture_output=True, text=True, check=False)
        if "statically linked" in done.stdout:
            continue
        if done.returncode or "not found" in done.stdout:
            raise SystemExit(f"{file}: a shared library is missing: {done.stdout}{done.stderr}")
        paths = (Path(match) for match in re.findall(r"=> (/\S+)", done.stdout))
        found |= {path for path in paths if path.parts[:2] in (("/", "lib"), ("/", "lib64"), ("/", "usr"))}
    return sorted(found)


def program_interpreter(program: Path) -> Path:
    """The dynamic linker that a program names: the first string in it that looks like one (ELF's PT_INTERP)."""
    with program.open("rb") as file:
        match = re.search(rb"/lib[^\0]*/ld[^\0/]*\.so[^\0/]*(?=\0)", file.read(4096))
    if match is None:
        raise SystemExit(f"{program} names no dynamic linker")
    return Path(os.fsdecode(match[0]))


def keep_notices(paths: Iterable[Path], root: Path) -> None:
    """For the Debian packages of what was copied: their copyright files, and their names and versions.

    Scanners of images look for these in var/lib/dpkg/status.d, where distroless images have them too.
    """
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in sorted({name for path in paths for name in owners(path)}):
        name = package.partition(":")[0]
        text = subprocess.run(
            ["dpkg-query", "--status", package], capture_output=True, text=True, check=True
        ).stdout
        (status / name).write_text(text)
        notice = Path("/usr/share/doc", name, "copyright")
        if notice.exists():
            target = below(root, notice)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(notice.resolve(), target)


def owners(path: Path) -> list[str]:
    """The Debian packages that brought a file; its path may be recorded as it was before /usr was merged."""
    if path == CERTIFICATES:
        return ["ca-certificates"]  # that file is made when the package is configured
    real = path.resolve()
    names = {str(path), str(real), str(real).removeprefix("/usr")}
    done = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True, check=False)
    lines = (line.partition(": ")[0] for line in done.stdout.splitlines() if not line.startswith("diversion"))
    return [name for line in lines for name in line.split(", ")]


def no_programs_but(directory: Path, root: Path) -> None:
    """Leave programs in `directory` only: some modules could be run, and some wheels mark every file so."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and ".so" not in path.name and path.parent != directory:
            path.chmod(0o644)


def compile_all(root: Path) -> None:
    """Write byte code that is never compared with its source: the tree is read-only, its files carry no real time.

    Without the docstrings of others' modules, which nobody reads here: 2 of the 60 MB that a started Peili has
    resident (measured), and as much of the image. Assertions stay. Peili's own docstrings stay as well: click
    prints them as help, and dataclasses compute a longer text where there is none.
    """
    for path in sorted((root / "usr").rglob("*.py")):
        # A few files of the standard library and of packages are templates or broken on purpose.
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):
            source = path.read_bytes()
            tree = ast.parse(source)
            if "peili" not in path.relative_to(root).parts:
                strip_docstrings(tree)
            code = compile(tree, f"/{path.relative_to(root)}", "exec", dont_inherit=True)
            write_byte_code(path, code, source)


def strip_docstrings(tree: ast.Module) -> None:
    """Remove the docstring of a module and of every class and function in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as docstring, *rest]:
                    # A body must not be empty; `pass` at the same place.
                    node.body = rest or [ast.copy_location(ast.Pass(), docstring)]


def write_byte_code(path: Path, code: CodeType, source: bytes) -> None:
    """Write a .pyc file: magic number, flags, hash of the source, code (PEP 552)."""
    target = Path(importlib.util.cache_from_source(str(path)))
    target.parent.mkdir(exist_ok=True)
    head = importlib.util.MAGIC_NUMBER + HASH_BASED_UNCHECKED.to_bytes(4, "little")
    target.write_bytes(head + importlib.util.source_hash(source) + marshal.dumps(code))


if __name__ == "__main__":
    main()
