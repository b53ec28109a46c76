from __future__ import annotations

import tomllib
from datetime import datetime, time
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.containerd.hosts import InvalidHostsFile, parse_hosts, same_host
from peili.containerd.hosts_merge import Addition, MirrorHost, inherited, merge, strip
from peili.containerd.toml_statements import scan, write_key, write_value
from tests.properties.effort import examples

EXAMPLES = 150
ADDITION = Addition((MirrorHost("http://127.0.0.1:5000", "Basic eA=="), MirrorHost("http://10.0.0.1:5000")))
OURS = [host.url for host in ADDITION.hosts]

Moment = TypeVar("Moment", datetime, time)


def unfolded(moment: Moment) -> Moment:
    return moment.replace(fold=0)  # TOML knows no fold


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.datetimes().map(unfolded),
    st.dates(),
    st.times().map(unfolded),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
urls = st.sampled_from(
    ["https://a", "https://b:5000", "http://127.0.0.1:5000", "c", "http://[", 'odd"\\\n.key', "http://é"]
)
settings_of_a_host = st.dictionaries(
    st.sampled_from(["ca", "client", "skip_verify", "unknown key"]), values, max_size=3
)
blanks = st.sampled_from(["", "\n", '# comment [host."x"] = \'a\n', "  \t\r\n", "\t# [\n"])
trailing = st.sampled_from(["", " # why", "  \t"])


@st.composite
def files(draw: st.DrawFn) -> str:
    """A hosts.toml by a hand that likes variety: dotted keys, inline tables, sub-tables, comments, odd spaces."""
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(draw(blanks) + draw(st.sampled_from(["", "  ", "\t"])) + text + draw(trailing) + "\n")

    for key, value in draw(
        st.dictionaries(st.sampled_from(["server", "ca", "x", "é"]), values, max_size=3)
    ).items():
        line(f"{write_key((key,))} = {write_value(value if key != 'server' else 'https://s')}")

    def pairs(url: str, *prefix: str) -> list[str]:
        table: dict[str, Any] = draw(settings_of_a_host)
        if not table or draw(st.booleans()):
            return [f"{write_key((*prefix, url))} = {write_value(table)}"]
        return [f"{write_key((*prefix, url, key))} = {write_value(value)}" for key, value in table.items()]

    names = draw(st.lists(urls, unique=True, max_size=6))
    styles = st.sampled_from(["table", draw(st.sampled_from(["top", "section"]))])  # TOML forbids both in one file
    by_style: dict[str, list[str]] = {"top": [], "table": [], "section": []}
    for url in names:
        by_style[draw(styles)].append(url)
    for text in draw(st.permutations([text for url in by_style["top"] for text in pairs(url, "host")])):
        line(text)
    section = draw(st.integers(0, len(by_style["table"])))
    for place, url in enumerate([*by_style["table"], ""]):
        if place == section and by_style["section"]:
            line("[host]")
            for text in draw(st.permutations([text for name in by_style["section"] for text in pairs(name)])):
                line(text)
        if not url:
            continue
        line(f"[{write_key(('host', url))}]")
        for key, value in draw(settings_of_a_host).items():
            line(f"{write_key((key,))} = {write_value(value)}")
        if draw(st.booleans()):
            line(f"[ host . {write_key((url,))} .header ]")
            line('x = """a\n[host.fake]\n"""')
    text = "".join(lines)
    return text[:-1] if draw(st.booleans()) and text.endswith("\n") else text


def same(left: object, right: object) -> bool:
    return repr(left) == repr(right)  # nan equals nan here


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(st.binary(max_size=300) | texts.map(str.encode))
def test_any_bytes_parse_or_raise_the_parsers_own_error(content: bytes) -> None:
    try:
        file = parse_hosts(content)
    except InvalidHostsFile:
        return
    assert file.text == content.decode()
    assert list(parse_hosts(merge(file, ADDITION)).hosts)[:2] == OURS


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(values)
def test_values_are_read_back_as_they_were_written(value: object) -> None:
    assert same(tomllib.loads(f"a = {write_value(value)}")["a"], value)


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(files())
def test_statements_joined_are_the_file(text: str) -> None:
    tomllib.loads(text)
    assert "".join(statement.text for statement in scan(text)) == text


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(files())
def test_merging_puts_ours_first_and_changes_nothing_else(text: str) -> None:
    before = parse_hosts(text)
    after = parse_hosts(merge(before, ADDITION))
    mine = {same_host(url) for url in OURS}
    assert list(after.hosts)[:2] == OURS
    others = {url: table for url, table in before.hosts.items() if same_host(url) not in mine}
    assert {url: repr(after.hosts[url]) for url in list(after.hosts)[2:]} == {u: repr(t) for u, t in others.items()}
    assert list(after.hosts)[2:] == list(others)
    assert same(
        {k: v for k, v in after.data.items() if k != "host"}, {k: v for k, v in before.data.items() if k != "host"}
    )
    for statement in before.statements:
        if statement.text.lstrip().startswith("#"):
            assert statement.text.strip() in after.text


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(files())
def test_stripping_brings_the_meaning_back(text: str) -> None:
    before = parse_hosts(text)
    rest = parse_hosts(strip(parse_hosts(merge(before, ADDITION)), before, OURS))
    assert not rest.is_marked
    assert same(sorted(rest.hosts.items(), key=str), sorted(before.hosts.items(), key=str))
    assert same(
        {k: v for k, v in rest.data.items() if k != "host"}, {k: v for k, v in before.data.items() if k != "host"}
    )


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(files())
def test_an_inherited_file_says_the_same(text: str) -> None:
    before = parse_hosts(text)
    after = parse_hosts(inherited(before, ""))
    assert list(after.hosts) == list(before.hosts)
    assert same(sorted(after.data.items(), key=str), sorted(before.data.items(), key=str)) or "host" in before.data
