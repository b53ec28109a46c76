"""hosts.toml: what it says, or why containerd cannot read it (containerd, docs/hosts.md).

containerd tries the hosts in the order of their tables and then the server; without `server`, the image's own
registry. One mistake makes it drop the whole file, so a file is refused here where containerd would drop it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import urlsplit

from peili.containerd.toml_statements import Kind, NotScannable, Statement, scan

# A hosts.toml is a few lines; a file above this (bytes) is a mistake.
MAXIMUM_HOSTS_FILE_SIZE = 1 << 20
BEGIN = "# peili begin: written by `peili configure`; edits up to the end mark are lost, `peili cleanup` removes it"
END = "# peili end"
_BEGIN_MARK = "# peili begin"
# docs/hosts.md; `referrers` since 2.1. containerd ignores the whole file when it meets another one.
_KNOWN_CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})
_LINE = re.compile(r"line (\d+)")
Table = dict[str, object]


class InvalidHostsFile(ValueError):
    """A hosts.toml that containerd cannot read; `line` counts from 1, or is None where it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class HostsFile:
    """A hosts.toml that has been read: its statements, which joined are its text, and its values."""

    statements: tuple[Statement, ...]
    data: Table

    @property
    def text(self) -> str:
        """The file's text."""
        return "".join(statement.text for statement in self.statements)

    @property
    def hosts(self) -> dict[str, Table]:
        """The hosts and their settings, in the order of the file."""
        hosts = self.data.get("host", {})
        return {url: table for url, table in hosts.items() if isinstance(table, dict)} if is_table(hosts) else {}

    @property
    def is_marked(self) -> bool:
        """Whether Peili has written into this file."""
        return any(is_begin(statement) for statement in self.statements)


def parse_hosts(content: bytes | str) -> HostsFile:
    """Read a hosts.toml; raise InvalidHostsFile on what containerd would not read either."""
    if len(content) > MAXIMUM_HOSTS_FILE_SIZE:
        raise InvalidHostsFile(f"it is larger than {MAXIMUM_HOSTS_FILE_SIZE} bytes")
    try:
        text = content if isinstance(content, str) else content.decode()
        data = tomllib.loads(text)
        statements = tuple(scan(text))
    except UnicodeDecodeError as error:
        assert isinstance(content, bytes)
        raise InvalidHostsFile("it is not UTF-8", content.count(b"\n", 0, error.start) + 1) from error
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        line = int(found[1]) if found else max(1, len(text.splitlines()))  # else: "at end of document"
        raise InvalidHostsFile(f"it is not TOML: {error}", line) from error
    except NotScannable as error:
        raise InvalidHostsFile(f"it is TOML that Peili cannot edit: {error}") from error
    except RecursionError as error:
        raise InvalidHostsFile("its values are nested too deeply") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidHostsFile(f"it holds a value that cannot be read: {error}") from error
    file = HostsFile(statements, data)
    _check(file)
    return file


def _check(file: HostsFile) -> None:
    """Refuse what makes containerd drop the whole file, with our hosts in it."""
    hosts = file.data.get("host", {})
    if not isinstance(hosts, dict) or not all(isinstance(table, dict) for table in hosts.values()):
        raise InvalidHostsFile('every host must be a table: [host."https://…"]', _line_of(file, ("host",)))
    if not isinstance(file.data.get("server", ""), str):
        raise InvalidHostsFile("server must be a string", _line_of(file, ("server",)))
    for path, table in [((), file.data), *((("host", url), table) for url, table in file.hosts.items())]:
        capabilities = table.get("capabilities", [])
        known = isinstance(capabilities, list) and all(
            isinstance(name, str) and name.lower() in _KNOWN_CAPABILITIES for name in capabilities
        )
        if not known:
            where = _line_of(file, (*path, "capabilities"))
            raise InvalidHostsFile(f"capabilities must be a list of {sorted(_KNOWN_CAPABILITIES)}", where)


def _line_of(file: HostsFile, path: tuple[str, ...]) -> int | None:
    line = 1
    for statement in file.statements:
        full = (*statement.section, *statement.key)
        if statement.kind in {Kind.PAIR, Kind.HEADER} and path == full[: len(path)]:
            return line
        line += statement.text.count("\n")
    return None


def same_host(url: str) -> str:
    """A form in which two spellings of one host are equal: containerd adds https:// and /v2 where they lack."""
    try:
        parts = urlsplit(url if url.startswith("http") else f"https://{url}")
    except ValueError:
        return url
    path = parts.path.rstrip("/").removesuffix("/v2")
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{path}"


def is_begin(statement: Statement) -> bool:
    """Whether this is the mark that our block begins with."""
    return statement.kind is Kind.COMMENT and statement.text.strip().startswith(_BEGIN_MARK)


def is_end(statement: Statement) -> bool:
    """Whether this is the mark that our block ends with."""
    return statement.kind is Kind.COMMENT and statement.text.strip() == END


def is_table(value: object) -> TypeGuard[Table]:
    """Whether a value of the file is a table."""
    return isinstance(value, dict)
