from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from peili.routing import resolve as resolve_module
from peili.routing.bootstrap import (
    MAXIMUM_ADDRESSES,
    BootstrapAddress,
    DnsSource,
    FileSource,
    HttpSource,
    InvalidBootstrap,
    StaticSource,
    parse_address,
    parse_lines,
    parse_listing,
    parse_source,
)
from peili.routing.resolve import MAXIMUM_LISTING_BYTES, BootstrapFailed, resolve

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
A = BootstrapAddress("10.0.0.1", 5001)
B = BootstrapAddress("fd00::1", 5001)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("dns:peili", DnsSource("peili")),
        ("dns:peili.kube-system.svc.cluster.local.", DnsSource("peili.kube-system.svc.cluster.local.")),
        ("dns:peili:5002", DnsSource("peili", 5002)),
        ("http:http://10.0.0.1/id", HttpSource("http://10.0.0.1/id")),
        ("http://10.0.0.1:8080/id", HttpSource("http://10.0.0.1:8080/id")),
        ("https://list.example/id", HttpSource("https://list.example/id")),
        ("http:https://list.example/id", HttpSource("https://list.example/id")),
        ("static:10.0.0.1:5001", StaticSource((A,))),
        ("static:10.0.0.1:5001, [fd00::1]:5001", StaticSource((A, B))),
        (f"static:/ip4/10.0.0.1/tcp/5001/p2p/{ID}", StaticSource((BootstrapAddress("10.0.0.1", 5001, ID),))),
        ("file:/etc/peili/peers", FileSource("/etc/peili/peers")),
    ],
)
def test_sources(text: str, source: object) -> None:
    assert parse_source(text) == source
    assert parse_source(str(source)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "", "dns", "dns:", "dns:a b", "dns:peili:0", "dns:peili:70000", "dns:peili:", "dns:a..b", "dns:-:x",
        "http:", "http://", "http:ftp://x/", "http://user:secret@host/", "http://host:port/", "http://host:99999/",
        "http://[::1/", "http://a b/", "static:", "static:10.0.0.1", "static:10.0.0.1:0", "static:example.org:5001",
        "static:fd00::1:5001", "static:10.0.0.1:5001,", "file:", "file:\0", "srv:peili", "static:0.0.0.0:5001",
        "static:224.0.0.1:5001", "dns:" + "a" * 300,
    ],
)  # fmt: skip
def test_wrong_sources_are_named(text: str) -> None:
    with pytest.raises(InvalidBootstrap) as caught:
        parse_source(text)
    assert "use " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:5001", A),
        ("[fd00::1]:5001", B),
        ("[FD00:0::1]:5001", B),
        ("/ip4/10.0.0.1/tcp/5001", A),
        ("/ip6/fd00::1/tcp/5001", B),
        (f"/ip6/fd00::1/tcp/5001/p2p/{ID}", BootstrapAddress("fd00::1", 5001, ID)),
    ],
)
def test_addresses(text: str, address: BootstrapAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", ":5001", "10.0.0.1", "[10.0.0.1]:5001", "10.0.0.256:5001", "10.0.0.1:١",
        "/ip4/10.0.0.1/udp/5001/quic-v1",
        "/ip4/fd00::1/tcp/5001", "/dns4/peili/tcp/5001", "/ip4/10.0.0.1/tcp/5001/p2p/", "/", "[fe80::1%lo]:5001",
        "/ip4/10.0.0.1/tcp/5001/p2p/" + "1" * 300, "9" * 9999,
    ],
)  # fmt: skip
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(InvalidBootstrap, match="not a peer's address"):
        parse_address(text)


def test_a_file_has_comments_and_names_the_line_of_an_error() -> None:
    assert parse_lines("# peers\n10.0.0.1:5001  # the first\n\n[fd00::1]:5001\r\n") == [A, B]
    with pytest.raises(InvalidBootstrap, match="line 2: not a peer's address: 'node'"):
        parse_lines("10.0.0.1:5001\nnode\n")


def test_an_http_listing_is_spegels_or_a_list_of_addresses() -> None:
    spegel = b'[{"ID":"%s","Addrs":["/ip4/10.0.0.1/tcp/5001","/ip4/10.0.0.1/udp/5001/quic-v1"]}]' % ID.encode()
    assert parse_listing(spegel) == [BootstrapAddress("10.0.0.1", 5001, ID)]
    assert parse_listing(b'["10.0.0.1:5001", "/ip6/fd00::1/tcp/5001"]') == [A, B]
    assert parse_listing(b"[]") == []
    assert len(parse_listing(b'["10.0.0.1:5001"' + b',"10.0.0.1:5001"' * 9_999 + b"]")) == MAXIMUM_ADDRESSES


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'[{"ID":1}]', b'[{"Addrs":[1]}]', b"\xff", b"[" * 100_000, b"null", b"[null]"]
)
def test_wrong_listings(body: bytes) -> None:
    with pytest.raises(InvalidBootstrap):
        parse_listing(body)


async def no_fetch(url: str, limit: int) -> bytes:
    raise AssertionError("not an HTTP source")


async def test_static_addresses_are_their_own_answer_each_once() -> None:
    assert await resolve(StaticSource((A, B, A)), 1, no_fetch) == [A, B]


async def test_a_file_is_read_again_each_time(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    source = FileSource(str(path))
    with pytest.raises(BootstrapFailed, match=r"file:.*No such file"):
        await resolve(source, 1, no_fetch)
    path.write_text("")
    assert await resolve(source, 1, no_fetch) == []
    path.write_text("10.0.0.1:5001\n")
    assert await resolve(source, 1, no_fetch) == [A]
    path.write_bytes(b"\xff")
    with pytest.raises(BootstrapFailed, match="not UTF-8"):
        await resolve(source, 1, no_fetch)
    path.write_bytes(b"#" * (MAXIMUM_LISTING_BYTES + 1))
    with pytest.raises(BootstrapFailed, match="larger than"):
        await resolve(source, 1, no_fetch)


async def test_http(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(url: str, limit: int) -> bytes:
        assert (url, limit) == ("http://10.0.0.1/id", MAXIMUM_LISTING_BYTES)
        return b'["10.0.0.1:5001"]'

    async def refuse(url: str, limit: int) -> bytes:
        raise ConnectionRefusedError(111, "Connection refused")

    source = HttpSource("http://10.0.0.1/id")
    assert await resolve(source, 1, fetch) == [A]
    with pytest.raises(BootstrapFailed, match=r"http:http://10\.0\.0\.1/id: Connection refused"):
        await resolve(source, 1, refuse)


async def test_an_answer_that_never_comes_is_given_up(autojump_clock: MockClock) -> None:
    async def silent(url: str, limit: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(BootstrapFailed, match="no answer within 5 s"):
        await resolve(HttpSource("http://10.0.0.1/id"), 1, silent)


class FakeResolver(trio.abc.HostnameResolver):
    def __init__(self, answer: list[str] | int) -> None:
        self.answer = answer

    async def getaddrinfo(self, host: object, port: object, *hints: object, **more: object) -> Any:
        if isinstance(self.answer, int):
            raise socket.gaierror(self.answer, "told to fail")
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (text, port, 0, 0)) for text in self.answer]

    async def getnameinfo(self, *arguments: object) -> Any:
        raise NotImplementedError


async def test_dns_takes_both_families_and_the_default_port() -> None:
    trio.socket.set_custom_hostname_resolver(FakeResolver(["10.0.0.1", "fd00::1", "10.0.0.1"]))
    assert await resolve(DnsSource("peili"), 5001, no_fetch) == [A, B]
    assert await resolve(DnsSource("peili", 7), 5001, no_fetch) == [
        BootstrapAddress("10.0.0.1", 7),
        BootstrapAddress("fd00::1", 7),
    ]


async def test_dns_without_addresses_is_an_answer_and_an_unknown_name_a_failure() -> None:
    trio.socket.set_custom_hostname_resolver(FakeResolver(socket.EAI_NODATA))
    assert await resolve(DnsSource("peili"), 5001, no_fetch) == []
    trio.socket.set_custom_hostname_resolver(FakeResolver(socket.EAI_NONAME))
    with pytest.raises(BootstrapFailed, match="dns:peili: the name cannot be resolved"):
        await resolve(DnsSource("peili"), 5001, no_fetch)


def test_the_time_of_a_source_is_bounded() -> None:
    assert 0 < resolve_module.RESOLVE_TIMEOUT <= 10
