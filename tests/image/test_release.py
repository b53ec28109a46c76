"""What is released: one version, a changelog out of fragments, and a wheel that an empty environment can run."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from deploy import changelog, dist

from peili.version import VERSION

ROOT = changelog.ROOT
DATE = datetime.date(2030, 1, 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return dist.build(tmp_path_factory.mktemp("dist"))


def project(root: Path, fragments: dict[str, str], history: str = "") -> Path:
    (root / "news").mkdir()
    (root / "news/README.md").write_text("# What this is\n\nNot a fragment.\n")
    for name, text in fragments.items():
        (root / "news" / name).write_text(text)
    (root / "src/peili").mkdir(parents=True)
    (root / "src/peili/version.py").write_text('VERSION = "1.2.0"\n')
    (root / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog.MARK}{history}")
    return root


# The version


def test_the_version_stands_in_one_place() -> None:
    assert changelog.version_of(ROOT) == VERSION
    assert "dynamic = [" in (ROOT / "pyproject.toml").read_text()


def test_the_chart_has_the_same_version() -> None:
    chart = (ROOT / "charts/peili/Chart.yaml").read_text()
    assert re.findall(r'^(?:version|appVersion): "?([^"\s]+)"?$', chart, re.M) == [VERSION, VERSION]


# The changelog


def test_the_fragments_of_this_tree_are_well_formed() -> None:
    changelog.read(ROOT / "news")
    assert changelog.MARK in (ROOT / "CHANGELOG.md").read_text()


def test_a_release_moves_the_fragments_into_the_changelog(tmp_path: Path) -> None:
    news = {"b.fixed.md": "A\nfix.\n", "z.added.md": "New.\n", "a.security.md": "Safer.\n"}
    root = project(tmp_path, news, "\n## 1.1.0 (2029-01-01)\n\n### Added\n\n- Old.\n")

    changelog.release(root, DATE)

    assert (root / "CHANGELOG.md").read_text() == (
        f"# Changelog\n\n{changelog.MARK}\n"
        "## 1.2.0 (2030-01-02)\n\n### Security\n\n- Safer.\n\n### Added\n\n- New.\n\n### Fixed\n\n- A fix.\n\n"
        "## 1.1.0 (2029-01-01)\n\n### Added\n\n- Old.\n"
    )
    assert [path.name for path in (root / "news").iterdir()] == ["README.md"]


def test_long_news_are_wrapped_as_items_of_a_list(tmp_path: Path) -> None:
    root = project(tmp_path, {"a.added.md": "word " * 60})
    lines = changelog.release(root, DATE).splitlines()
    item = lines[lines.index("### Added") + 2 :]

    assert max(map(len, lines)) <= changelog.WIDTH
    assert item[0].startswith("- word")
    assert item[1].startswith("  word")
    assert " ".join(item).split().count("word") == 60


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.new.md", "Text.", "KIND one of"),
        ("A.added.md", "Text.", "NAME.KIND.md"),
        ("a.added.txt", "Text.", "NAME.KIND.md"),
        ("a.added.md", " \n", "one paragraph"),
        ("a.added.md", "One.\n\nTwo.", "one paragraph"),
        ("a.added.md", "# Heading", "one paragraph"),
        ("a.added.md", "- Item", "one paragraph"),
    ],
)
def test_a_fragment_that_is_none_is_refused_and_nothing_is_lost(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    root = project(tmp_path, {name: text, "good.added.md": "Good."})
    before = (root / "CHANGELOG.md").read_text()

    with pytest.raises(changelog.InvalidNews, match=why):
        changelog.release(root, DATE)

    assert (root / "CHANGELOG.md").read_text() == before
    assert (root / "news" / name).read_text() == text


def test_the_same_version_is_not_released_twice(tmp_path: Path) -> None:
    root = project(tmp_path, {"a.added.md": "New."}, "\n## 1.2.0 (2029-01-01)\n")
    with pytest.raises(changelog.InvalidNews, match=r"1\.2\.0 already"):
        changelog.release(root, DATE)
    assert (root / "news/a.added.md").exists()


def test_nothing_new_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(changelog.InvalidNews, match="nothing to release"):
        changelog.release(project(tmp_path, {}), DATE)


# Wheel and sdist


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel = built[1]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"peili-{VERSION}.dist-info/METADATA").decode()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/peili").rglob("*.py")}

    assert sources <= names
    assert {name.split("/")[0] for name in names} == {"peili", f"peili-{VERSION}.dist-info"}
    assert {"peili/py.typed", f"peili-{VERSION}.dist-info/licenses/LICENSE"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".toml")) or "/tests/" in name]
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: <3.15,>=3.11" in metadata


def test_the_sdist_holds_what_the_wheel_is_built_from(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/peili/version.py", "src/peili/py.typed"} <= names


def test_leftovers_of_other_builds_do_not_get_into_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    dist.copy_tracked(ROOT, source)
    (source / "build/lib/peili").mkdir(parents=True)
    (source / "build/lib/peili/ghost.py").write_text("")
    subprocess.run(["git", "init", "-q", str(source)], check=True)

    _, wheel = dist.build(tmp_path / "dist", source)

    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "ghost" in name]


def environment_with(package: str | Path, directory: Path) -> Path:
    """A new environment with this package and what it needs, from PyPI; gives its programs' directory."""
    venv.create(directory / "venv", with_pip=True)
    programs = directory / "venv/bin"
    subprocess.run([programs / "pip", "install", "-q", str(package)], check=True)
    return programs


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Dependencies by their ranges, from PyPI."""
    programs = environment_with(built[1], tmp_path)

    def said(*words: str | Path) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    assert said(programs / "peili", "version") == f"peili {VERSION}\n"
    assert "--registry-address" in said(programs / "peili", "run", "--help")
    where = said(programs / "python", "-I", "-c", "import peili.demo.story, peili.daemon; print(peili.__file__)")
    assert where.startswith(str(tmp_path / "venv"))
    assert sys.version_info[:2] >= (3, 11)


@pytest.mark.slow
def test_pip_builds_and_installs_the_sdist(built: tuple[Path, Path], tmp_path: Path) -> None:
    programs = environment_with(built[0], tmp_path)
    done = subprocess.run([programs / "peili", "version"], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"peili {VERSION}\n"


@pytest.mark.slow
def test_pipx_installs_the_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    programs = environment_with("pipx", tmp_path)
    places = {f"PIPX_{name}": str(tmp_path / name) for name in ("HOME", "BIN_DIR", "MAN_DIR", "SHARED_LIBS")}
    environment = {**os.environ, **places, "PIPX_DEFAULT_PYTHON": sys.executable}
    subprocess.run(
        [programs / "pipx", "install", str(built[1])],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment,
    )
    done = subprocess.run(
        [tmp_path / "BIN_DIR/peili", "version"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == f"peili {VERSION}\n"
    assert (tmp_path / "BIN_DIR/peili").resolve().is_relative_to(tmp_path / "HOME/venvs/peili")
