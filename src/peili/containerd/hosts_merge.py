"""Putting our hosts in front of what a hosts.toml says, and taking them out again: text in, text out.

What we add stands in one block between two marker comments, directly before the first table: the top-level keys in
front of it stay top-level keys, and our tables come first. containerd 2 sees a host only where a table header
names it; 1.6 takes dotted and inline ones too, and inline ones first of all, wherever they stand (seen on 1.6.20).
So such hosts are written as tables, which every version understands, in the order of the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from peili.containerd.hosts import BEGIN, END, HostsFile, Table, is_begin, is_end, is_table, parse_hosts, same_host
from peili.containerd.toml_statements import Kind, Statement, write_key, write_string, write_value

# containerd's own 30 s would hold every pull for that long while Peili's node is unreachable (known since 2.0.7).
DIAL_TIMEOUT = "200ms"
CAPABILITIES = ("pull", "resolve")


@dataclass(frozen=True, slots=True)
class MirrorHost:
    """A host to put first: its URL, and the Authorization header that it is to get."""

    url: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Addition:
    """What is put into a file: hosts in order, and top-level keys that the file itself lacks."""

    hosts: tuple[MirrorHost, ...]
    server: str | None = None
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()


def merge(base: HostsFile, addition: Addition, *, replace: bool = False) -> str:
    """The text of `base` with our hosts in front; `replace` drops the other hosts, never the server.

    A host of `base` that is also one of ours becomes ours and keeps its certificates and headers.
    """
    ours = {same_host(host.url) for host in addition.hosts}
    known = {} if replace else {same_host(url): table for url, table in base.hosts.items()}
    if replace:
        return _insert([found for found in base.statements if not _is_host(found)], _block(base, addition, known))
    above, kept = _as_tables([found for found in base.statements if not _names(found, ours)], ours)
    return _insert(kept, _block(base, addition, known) + above)


def _is_host(statement: Statement) -> bool:
    """Whether this is a part of the host table."""
    return statement.kind in {Kind.HEADER, Kind.PAIR} and (*statement.section, *statement.key)[0] == "host"


def _names(statement: Statement, hosts: Collection[str]) -> bool:
    """Whether this is a part of one of these hosts, given as same_host writes them."""
    path = (*statement.section, *statement.key)
    return _is_host(statement) and len(path) > 1 and same_host(path[1]) in hosts


def _as_tables(statements: Sequence[Statement], ours: Collection[str]) -> tuple[str, list[Statement]]:
    """Hosts by dotted keys and inline tables become tables, each where it was first named.

    Those of the top level cannot stay there, for top-level keys may follow: they are the text, the rest the list.
    """
    hosts: dict[tuple[str, ...], Table] = {(): {}, ("host",): {}}
    comments: dict[str, list[str]] = {}
    kept: list[Statement] = []
    for statement in statements:
        known = hosts.get(statement.section)
        if statement.kind is not Kind.PAIR or not _is_host(statement) or known is None:
            kept.append(statement)
            continue
        found: Table = tomllib.loads(statement.text)
        named = found if statement.section else found["host"]
        assert is_table(named)
        new = [url for url in named if url not in known and same_host(url) not in ours]
        _deep_update(known, named)
        comments.setdefault(next(iter(named), ""), []).extend([statement.comment] if statement.comment else [])
        kept += [Statement(Kind.HEADER, "", ("host", url)) for url in new if statement.section]
    written = [
        Statement(Kind.HEADER, _commented(found.section[1], hosts[("host",)], comments), found.section)
        if found.kind is Kind.HEADER and not found.text
        else found
        for found in kept
    ]
    above = "".join("\n" + _commented(url, hosts[()], comments) for url in hosts[()] if same_host(url) not in ours)
    return above, written


def _commented(url: str, hosts: Table, comments: Mapping[str, Sequence[str]]) -> str:
    table = hosts[url]
    assert is_table(table)
    return "".join(f"{line}\n" for line in (*comments.get(url, ()), _host_table(url, table)))


def _deep_update(target: Table, source: Mapping[str, object]) -> None:
    for key, value in source.items():
        present = target.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _deep_update(present, value)
        else:
            target[key] = value


def _block(base: HostsFile, addition: Addition, known: Mapping[str, Table]) -> str:
    lines = [BEGIN]
    if addition.server is not None and "server" not in base.data:
        lines.append(f"server = {write_string(addition.server)}")
    lines += write_certificates(addition.ca, addition.client).splitlines()
    for host in addition.hosts:
        lines += ["", _host_table(host.url, _our_table(host, known.get(same_host(host.url), {})))]
    return "\n".join([*lines, END]) + "\n"


def _our_table(host: MirrorHost, before: Mapping[str, object]) -> Table:
    table: Table = {"capabilities": list(CAPABILITIES), "dial_timeout": DIAL_TIMEOUT}
    table |= {key: value for key, value in before.items() if key not in table}
    if host.authorization is not None:
        header = before.get("header", {})
        others = (
            {name: value for name, value in header.items() if name.lower() != "authorization"}
            if is_table(header)
            else {}
        )
        table["header"] = {**others, "Authorization": host.authorization}
    return table


def _host_table(url: str, table: Mapping[str, object]) -> str:
    lines = [f"[{write_key(('host', url))}]"]
    lines += [f"{write_key((key,))} = {write_value(value)}" for key, value in table.items() if key != "header"]
    header = table.get("header")
    if is_table(header):
        lines += ["", f"[{write_key(('host', url, 'header'))}]"]
        lines += [f"{write_key((key,))} = {write_value(value)}" for key, value in header.items()]
    elif header is not None:
        lines.append(f"header = {write_value(header)}")
    return "\n".join(lines)


def _insert(statements: Sequence[Statement], block: str) -> str:
    """The statements' text with the block before the first table and the comment that belongs to that."""
    place = next((i for i, statement in enumerate(statements) if statement.kind is Kind.HEADER), len(statements))
    while place and place < len(statements) and statements[place - 1].kind is Kind.COMMENT:
        place -= 1
    before = "".join(statement.text for statement in statements[:place])
    after = "".join(statement.text for statement in statements[place:])
    if before and not before.endswith("\n"):
        before += "\n"
    gap = "\n" if before.strip() and not before.endswith("\n\n") else ""
    return before + gap + block + ("\n" + after if after else "")


def strip(current: HostsFile, original: HostsFile, ours: Collection[str], *, replaced: bool = False) -> str:
    """The text of a file without what we added to it; for a file that was edited after us.

    `original` is the file before us (empty where there was none): hosts of it that we had made ours come back, all
    of them where we had `replaced` it. `ours` are the URLs we wrote: they go even where the marks were lost.
    """
    begin = next((i for i, found in enumerate(current.statements) if is_begin(found)), None)
    end = next((i for i, found in enumerate(current.statements) if is_end(found)), None)
    inside = range(begin, end + 1) if begin is not None and end is not None and begin < end else range(0)
    inside = _with_gap(current.statements, inside)
    spellings = {same_host(url) for url in ours}
    kept = [
        statement
        for i, statement in enumerate(current.statements)
        if i not in inside
        and not is_begin(statement)
        and not is_end(statement)
        and not _names(statement, spellings)
    ]
    rest = parse_hosts("".join(statement.text for statement in kept))
    present = {same_host(url) for url in rest.hosts}
    back = [
        _host_table(url, table)
        for url, table in original.hosts.items()
        if same_host(url) not in present and (replaced or same_host(url) in spellings)
    ]
    return _insert(rest.statements, "\n".join(back) + "\n") if back else rest.text


def _with_gap(statements: Sequence[Statement], inside: range) -> range:
    """The block with the empty line that set it apart."""
    if not inside:
        return inside
    first, last = inside[0], inside[-1]
    if last + 1 < len(statements) and statements[last + 1].kind is Kind.BLANK:
        return range(first, last + 2)
    if last + 1 == len(statements) and first and statements[first - 1].kind is Kind.BLANK:
        return range(first - 1, last + 1)
    return inside


def inherited(default: HostsFile, prefix: str) -> str:
    """What `_default` says, for a new directory that hides it; relative paths of certificates get `prefix`."""
    lines = [
        f"{write_key((key,))} = {write_value(_moved_paths(key, value, prefix))}"
        for key, value in default.data.items()
        if key not in {"host", "header"}
    ]
    header = default.data.get("header")
    if header is not None:
        lines.append(f"header = {write_value(header)}")
    tables = [
        _host_table(url, {key: _moved_paths(key, value, prefix) for key, value in table.items()})
        for url, table in default.hosts.items()
    ]
    return "".join(f"{part}\n" for part in [*lines, *tables])


def _moved_paths(key: str, value: object, prefix: str) -> object:
    if key not in {"ca", "client"}:
        return value
    if isinstance(value, list):
        return [_moved_paths(key, item, prefix) for item in value]
    return prefix + value if isinstance(value, str) and value and not value.startswith("/") else value


def lacks_certificates(file: HostsFile) -> bool:
    """Whether containerd, some version of it, reads Docker's certificate files beside this file.

    It does so where hosts.toml is missing or empty, and 1.6 also where no [host] table is in it.
    """
    return not file.hosts and "ca" not in file.data and "client" not in file.data


def docker_certificates(names: Collection[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """What containerd takes from a directory without hosts.toml: (ca files, client pairs).

    `.crt` are authorities; `.cert` are client certificates whose key is the file of the same name with `.key`, or
    which hold their key themselves.
    """
    ca = tuple(sorted(name for name in names if name.endswith(".crt")))
    clients = []
    for name in sorted(name for name in names if name.endswith(".cert")):
        key = name.removesuffix(".cert") + ".key"
        clients.append((name, key if key in names else name))
    return ca, tuple(clients)


def write_certificates(ca: Sequence[str], client: Sequence[tuple[str, str]], prefix: str = "") -> str:
    """The top-level lines that name these files, each with `prefix` before its name."""
    lines = []
    if ca:
        lines.append(f"ca = {write_value([prefix + name for name in ca])}\n")
    if client:
        lines.append(f"client = {write_value([[prefix + name for name in pair] for pair in client])}\n")
    return "".join(lines)
