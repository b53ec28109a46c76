from __future__ import annotations

import tomllib

import pytest

from peili.containerd.hosts import BEGIN, END, InvalidHostsFile, parse_hosts, same_host
from peili.containerd.hosts_merge import (
    Addition,
    MirrorHost,
    docker_certificates,
    inherited,
    lacks_certificates,
    merge,
    strip,
)

OURS = "http://127.0.0.1:5000"
ADDITION = Addition((MirrorHost(OURS),))
EMPTY = parse_hosts("")


def merged(text: str, addition: Addition = ADDITION, *, replace: bool = False) -> str:
    return merge(parse_hosts(text), addition, replace=replace)


def hosts(text: str) -> list[str]:
    return list(parse_hosts(text).hosts)


def test_a_new_file_is_our_host_with_the_server_of_the_registry() -> None:
    text = merged("", Addition((MirrorHost(OURS),), server="https://registry-1.docker.io"))
    assert text == (
        f"{BEGIN}\n"
        'server = "https://registry-1.docker.io"\n'
        "\n"
        '[host."http://127.0.0.1:5000"]\n'
        'capabilities = ["pull", "resolve"]\n'
        'dial_timeout = "200ms"\n'
        f"{END}\n"
    )


def test_everything_that_was_there_stays_byte_for_byte() -> None:
    text = """\
# the company's registry
server = "https://registry.example"   # TLS ends here
ca = "/etc/ssl/company.pem"
new_key = 1

# a cache
[host."https://cache.example"]
  capabilities = ["pull"]
  client = [["a.cert", "a.key"]]
[host."https://cache.example".header]
  x-team = ["a", "b"]
[another]
thing = 2
"""
    after = merged(text)
    begin, end = after.index(BEGIN), after.index(END) + len(END)
    assert after[:begin].rstrip("\n") + "\n\n" + after[end:].lstrip("\n") == text
    assert hosts(after) == [OURS, "https://cache.example"]
    assert "# a cache\n[host" in after


def test_the_file_keeps_its_own_server() -> None:
    after = merged(
        'server = "http://registry:5000"\n', Addition((MirrorHost(OURS),), server="https://registry:5000")
    )
    assert tomllib.loads(after)["server"] == "http://registry:5000"


@pytest.mark.parametrize(
    "text",
    [
        'host."https://a".capabilities = ["pull"] # why\nhost."https://b".skip_verify = true\n',
        'host = { "https://a" = { capabilities = ["pull"] }, "https://b" = { skip_verify = true } } # why\n',
        'host."https://a" = { capabilities = ["pull"] } # why\n[host."https://b"]\nskip_verify = true\n',
        '"host"."https://a".capabilities = [ # one\n"pull",\n] # why\n[host."https://b"]\nskip_verify = true',
    ],
)
def test_hosts_at_the_top_level_become_tables_behind_ours(text: str) -> None:
    after = merged(text)
    assert hosts(after) == [OURS, "https://a", "https://b"]
    assert parse_hosts(after).hosts["https://a"] == {"capabilities": ["pull"]}
    assert parse_hosts(after).hosts["https://b"] == {"skip_verify": True}
    assert "# why\n" in after
    assert '[host."https://a"]' in after


def test_a_host_spread_over_dotted_keys_and_a_table_stays_one() -> None:
    after = merged('host.a.ca = "x"\nhost.a.client = "y"\n[host.a.header]\nn = "v"\n')
    assert parse_hosts(after).hosts["a"] == {"ca": "x", "client": "y", "header": {"n": "v"}}


def test_hosts_in_a_host_section_become_tables_where_they_stand() -> None:
    after = merged("""\
[host."https://a"]
ca = "1"
[host]
# dotted
"https://b".ca = "2" # two
"https://c" = { ca = "3" }
"https://b".skip_verify = true
"http://127.0.0.1:5000".ca = "4"
[host."https://b".header]
x = "y"
[host."https://d"]
""")
    assert parse_hosts(after).hosts == {
        OURS: {"capabilities": ["pull", "resolve"], "dial_timeout": "200ms", "ca": "4"},
        "https://a": {"ca": "1"},
        "https://b": {"ca": "2", "skip_verify": True, "header": {"x": "y"}},
        "https://c": {"ca": "3"},
        "https://d": {},
    }
    assert hosts(after) == [OURS, "https://a", "https://b", "https://c", "https://d"]
    assert '# dotted\n# two\n[host."https://b"]\nca = "2"\n' in after


def test_a_host_that_is_also_ours_keeps_its_certificates_and_loses_its_place() -> None:
    text = """\
[host."https://first"]
[host."http://127.0.0.1:5000/v2/"]
capabilities = ["pull", "push"]
ca = "x.crt"
[host."http://127.0.0.1:5000/v2/".header]
authorization = "old"
x-a = "b"
"""
    after = parse_hosts(merged(text, Addition((MirrorHost(OURS, "Basic eA=="),))))
    assert list(after.hosts) == [OURS, "https://first"]
    assert after.hosts[OURS] == {
        "capabilities": ["pull", "resolve"],
        "dial_timeout": "200ms",
        "ca": "x.crt",
        "header": {"x-a": "b", "Authorization": "Basic eA=="},
    }


def test_credentials_go_to_the_host_that_has_them_and_into_no_repr() -> None:
    host = MirrorHost(OURS, "Basic c2VjcmV0")
    after = parse_hosts(merged("", Addition((host, MirrorHost("https://cache.example")))))
    assert after.hosts[OURS]["header"] == {"Authorization": "Basic c2VjcmV0"}
    assert "header" not in after.hosts["https://cache.example"]
    assert "c2VjcmV0" not in repr(host)


def test_replacing_keeps_what_concerns_the_server() -> None:
    text = 'server = "https://r"\nca = "c"\nhost.z.ca = "1"\n'
    text += '[host.y]\nca = "2"\n[host.y.header]\na = "b"\n[other]\nx = 1\n'
    after = tomllib.loads(merged(text, replace=True))
    assert after == {
        "server": "https://r",
        "ca": "c",
        "other": {"x": 1},
        "host": {OURS: {"capabilities": ["pull", "resolve"], "dial_timeout": "200ms"}},
    }


@pytest.mark.parametrize(
    "value", ['"""a""""', "'''a''''", '"a\\\\"', "'a\\'", '"""\\""""', "[ # [\n']', \n]", '{ a = "}" }']
)
def test_values_with_quotes_and_brackets_end_where_they_end(value: str) -> None:
    text = f"x = {value}\n[host.a]\n"
    assert hosts(merged(text)) == [OURS, "a"]
    assert merged(text).startswith(f"x = {value}\n\n{BEGIN}\n")


def test_windows_line_ends_and_a_missing_last_one() -> None:
    after = merged('server = "https://r"\r\n[host.a]\r\nca = "b"')
    assert hosts(after) == [OURS, "a"]
    assert after.endswith('ca = "b"')
    assert merged("# nothing").startswith("# nothing\n")


def test_strip_takes_out_what_merge_put_in_after_edits_by_hand() -> None:
    original = 'server = "https://r"\n[host.a]\nca = "b"\n'
    edited = merged(original) + '[host.new]\nca = "c"\n'
    rest = strip(parse_hosts(edited), parse_hosts(original), [OURS])
    assert tomllib.loads(rest) == tomllib.loads(original + '[host.new]\nca = "c"\n')


def test_strip_finds_our_hosts_where_a_program_dropped_the_comments() -> None:
    bare = "".join(line for line in merged("[host.a]\n").splitlines(True) if not line.startswith("#"))
    assert hosts(strip(parse_hosts(bare), EMPTY, [OURS])) == ["a"]
    assert hosts(strip(parse_hosts(bare), EMPTY, ["http://other"])) == [OURS, "a"]


def test_strip_with_one_mark_lost_takes_the_hosts_only() -> None:
    text = merged("[host.a]\n").replace(END, "")
    assert hosts(strip(parse_hosts(text), EMPTY, [OURS])) == ["a"]


def test_strip_brings_back_a_host_that_we_had_made_ours() -> None:
    original = parse_hosts(f'[host."{OURS}"]\nca = "b"\n[host.z]\n')
    edited = merge(original, ADDITION) + "# by hand\n"
    rest = parse_hosts(strip(parse_hosts(edited), original, [OURS]))
    assert rest.hosts == {OURS: {"ca": "b"}, "z": {}}


def test_strip_after_a_replacement_brings_all_hosts_back() -> None:
    original = parse_hosts('[host.y]\nca = "b"\n')
    edited = merge(original, ADDITION, replace=True) + '[host.new]\nca = "c"\n'
    assert sorted(parse_hosts(strip(parse_hosts(edited), original, [OURS], replaced=True)).hosts) == ["new", "y"]


def test_a_new_directory_takes_over_what_the_default_one_says() -> None:
    default = parse_hosts(
        'server = "https://s"\nca = "a.crt"\n[header]\nx = "y"\n[host.cache]\n'
        'ca = ["a.crt", "/b.crt"]\nclient = [["c.cert", "/k"]]\n[host.cache.header]\nn = "v"\n'
    )
    assert tomllib.loads(inherited(default, "../_default/")) == {
        "server": "https://s",
        "ca": "../_default/a.crt",
        "header": {"x": "y"},
        "host": {
            "cache": {
                "ca": ["../_default/a.crt", "/b.crt"],
                "client": [["../_default/c.cert", "/k"]],
                "header": {"n": "v"},
            }
        },
    }


def test_docker_certificates_are_paired_by_name() -> None:
    names = {"b.crt", "a.crt", "c.cert", "c.key", "alone.cert", "stray.key", "hosts.toml"}
    assert docker_certificates(names) == (("a.crt", "b.crt"), (("alone.cert", "alone.cert"), ("c.cert", "c.key")))


def test_certificates_are_carried_over_only_where_containerd_reads_them() -> None:
    assert lacks_certificates(EMPTY)
    assert lacks_certificates(parse_hosts('server = "https://r"'))
    assert not lacks_certificates(parse_hosts("[host.a]\n"))
    assert not lacks_certificates(parse_hosts('ca = "x"'))


def test_two_spellings_of_one_host() -> None:
    assert same_host("http://A:5000/") == same_host("http://a:5000/v2")
    assert same_host("a.example") == same_host("https://a.example/v2/")
    assert same_host("http://[") == "http://["
    assert same_host("http://a/x") != same_host("http://a/y")


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b'server = "a"\nx = [\n', 2, "not TOML"),
        (b"a = 1\nb = '\xff'\n", 2, "UTF-8"),
        (b"\nhost = 1\n", 2, "every host must be a table"),
        (b"[host]\na = 1\n", 1, "every host must be a table"),
        (b"[[host]]\n", 1, "every host must be a table"),
        (b"server = 1\n", 1, "server must be a string"),
        (b'[host.a]\ncapabilities = ["pull", "fly"]\n', 2, "capabilities"),
        (b"capabilities = 1\n", 1, "capabilities"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, None, "nested"),
        (b"a = " + b"1" * 5000, None, "cannot be read"),
        (b"#" * (1 << 21), None, "larger"),
        (b"\xef\xbb\xbfserver = 'a'\n", 1, "not TOML"),
    ],
)
def test_a_broken_file_says_where(content: bytes, line: int | None, words: str) -> None:
    with pytest.raises(InvalidHostsFile, match=words) as caught:
        parse_hosts(content)
    assert caught.value.line == line
