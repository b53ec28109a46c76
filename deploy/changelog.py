"""News fragments and the changelog: `python deploy/changelog.py check | draft | release`.

A change that a user can notice brings a file news/NAME.KIND.md: one paragraph in the words of whoever runs Peili.
KIND is added, changed, fixed, removed or security. So two changes never touch the same line of one file. A release
gathers the fragments in CHANGELOG.md under the version of src/peili/version.py, and removes them.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the order in which a reader who wants to upgrade needs them.
KINDS = ("security", "removed", "changed", "added", "fixed")
MARK = "<!-- releases: the newest first -->\n"
WIDTH = 116  # columns, as everywhere in the project


class InvalidNews(Exception):
    """A fragment or the changelog is not as it must be; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """One piece of news: its kind and its text, one paragraph in one line."""

    path: Path
    kind: str
    text: str


def read(directory: Path) -> list[Fragment]:
    """All fragments, by name; raise InvalidNews."""
    return [_fragment(path) for path in sorted(directory.iterdir()) if path.name != "README.md"]


def _fragment(path: Path) -> Fragment:
    match = re.fullmatch(r"[a-z0-9][a-z0-9-]*\.([a-z]+)\.md", path.name)
    if match is None or match[1] not in KINDS:
        raise InvalidNews(f"{path.name}: the name must be NAME.KIND.md, and KIND one of {', '.join(KINDS)}")
    text = path.read_text()
    if not text.strip() or re.search(r"\n\s*\n", text.strip()) or text.lstrip().startswith(("#", "-", "*")):
        raise InvalidNews(f"{path.name}: must be one paragraph, without a heading or a list")
    return Fragment(path, match[1], " ".join(text.split()))


def section(version: str, date: datetime.date, fragments: Iterable[Fragment]) -> str:
    """A release as Markdown."""
    fragments = list(fragments)
    lines = [f"## {version} ({date.isoformat()})", ""]
    for kind in KINDS:
        if found := [fragment.text for fragment in fragments if fragment.kind == kind]:
            lines += [f"### {kind.capitalize()}", "", *(_item(text) for text in found), ""]
    return "\n".join([*lines, ""])


def _item(text: str) -> str:
    lines = ["-"]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > WIDTH:
            lines.append(" ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def put(changelog: str, version: str, new: str) -> str:
    """The changelog with a new release on top; raise InvalidNews where it has that version, or no place for it."""
    if re.search(rf"^## {re.escape(version)} ", changelog, re.M):
        raise InvalidNews(f"CHANGELOG.md has {version} already: set the next version in src/peili/version.py")
    before, mark, after = changelog.partition(MARK)
    if not mark:
        raise InvalidNews(f"CHANGELOG.md lacks the line {MARK.strip()}")
    return f"{before}{mark}\n{new}{after.lstrip()}"


def version_of(root: Path) -> str:
    """The version that the sources say, without importing them."""
    match = re.search(r'^VERSION = "([^"]+)"$', (root / "src/peili/version.py").read_text(), re.M)
    if match is None:
        raise InvalidNews("src/peili/version.py names no VERSION")
    return match[1]


def release(root: Path, date: datetime.date) -> str:
    """Move all fragments into the changelog and return the release's section."""
    fragments = read(root / "news")
    if not fragments:
        raise InvalidNews("nothing in news/: nothing to release")
    version = version_of(root)
    new = section(version, date, fragments)
    path = root / "CHANGELOG.md"
    path.write_text(put(path.read_text(), version, new))
    for fragment in fragments:
        fragment.path.unlink()
    return new


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="News fragments and the changelog.")
    parser.add_argument("action", choices=["check", "draft", "release"])
    today = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument("--date", type=datetime.date.fromisoformat, default=today, help="YYYY-MM-DD, today if not")
    arguments = parser.parse_args()
    try:
        if arguments.action == "release":
            print(release(ROOT, arguments.date))
        elif arguments.action == "draft":
            print(section(version_of(ROOT), arguments.date, read(ROOT / "news")))
        else:
            print(f"{len(read(ROOT / 'news'))} fragments")
    except InvalidNews as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
