"""What the chart accepts the program accepts: values that it hands on, given to the parsers behind the flags."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from peili.containerd.configure_settings import parse_registry, parse_target
from peili.routing.bootstrap import parse_source
from peili.settings import (
    parse_duration,
    parse_filter,
    parse_max_uploads,
    parse_mirrored_registry,
    parse_network,
)
from tests.chart.rendering import Chart, RenderFailed
from tests.chart.scenarios import Values

pytestmark = pytest.mark.slow
Parser = Callable[[Any], object]


def both_registries(text: str) -> None:
    """`run` and `configure` get the same flag."""
    parse_mirrored_registry(text)
    parse_registry(text)


DURATIONS = [
    "0s", "0.0ms", "0.0009ms", "1ms", "0.001s", "24h", "24.1h", "1441m", "86400s", "86401s", "999999999ms",
    "999999999h", "1.5s", "250ms", "1", "s", "1.s", "-1s", "1d", "1.1234567s",
]  # fmt: skip
NETWORKS = [
    "10.0.0.0/8", "10.1.0.0/8", "10.0.0.0/33", "256.0.0.0/8", "10.0.0/8", "010.0.0.0/8", "0.0.0.0/0", "::/0",
    "10.244.1.1/32", "10.244.1.1/31", "10.244.1.0/31", "172.16.0.0/12", "172.24.0.0/12", "fd00::/8",
    "fd00::/7", "fc00::/7", "fd00:10::/64", "fd00:10::1/64", "fd00:10::1/128", "fd00:10::1/129",
    "1:2:3:4:5:6:7:8/128", "1:2:3:4:5:6:7::/112", "1:2:3:4:5:6:7::/111", "1::2::/64", ":::/64", "12345::/16",
    "2001:db8:8000::/33", "2001:db8:8000::/32", "fe80::/10", "fec0::/10", "::ffff:10.0.0.0/104", "FD00::/8",
    "/8", "10.0.0.0/",
]  # fmt: skip
REGISTRIES = [
    "https://ghcr.io", "http://registry.local:5000", "https://ghcr.io/", "https://ghcr.io:0",
    "https://ghcr.io:65535", "https://ghcr.io:65536", "https://ghcr.io:99999", "https://a..b", "https://-a",
    "https://[fd00::5]:5000", "https://[zz]", "https://[1:2]", "https://[::1", "https://ghcr.io:",
    "https://gh cr.io", "https://ghcr.io//", "https://user@ghcr.io", "https://a_b.example",
    "https://docker.io", "https://ü.example", "https://ghcr.io.", "https://a:b",
]  # fmt: skip
TARGETS = [
    "https://cache.example.com", "http://10.0.0.9:5000/proxy/", "http://10.0.0.9:70000",
    "http://[fd00::5]:5000", "https://cache.example.com/a b", "https://cache.example.com/ü",
    "https://cache.example.com/?x", "https:///x", "https://cache.example.com/a/b", "https://a:0/",
]  # fmt: skip
SOURCES = [
    "static:10.0.0.5:29501", "static:10.0.0.5", "static:10.0.0.5:0", "static:10.0.0.5:65536",
    "static:name:29501", "static:10.0.0.5:29501,", "static:10.0.0.5:29501,[fd00::5]:29501",
    "static:fd00::5:29501", "static:/ip4/10.0.0.5/tcp/29501", "static:/ip4/10.0.0.5/tcp/29501/p2p/12D3KooW",
    "static:/ip4/10.0.0.5/udp/1", "static:0.0.0.0:29501", "static:224.0.0.1:29501", "static:239.1.1.1:29501",
    "static:[::]:29501", "static:[0::0]:29501", "static:[ff02::1]:29501", "static:/ip6/ff02::1/tcp/1",
    "static:/ip6/fd00::5/tcp/1", "static:/ip6/::/tcp/1", "static:[::ff]:1", "dns:peers.example.com",
    "dns:peers.example.com:29501", "dns:peers.example.com:", "dns:", "dns:a..b", "dns:" + "a." * 130,
    "http:http://peers.example.com/list", "http://peers.example.com/id", "http://user@peers.example.com/id",
    "https://peers.example.com:0/", "https://peers.example.com:99999/", "http:", "http:/x",
    "https://[fd00::5]:8080/x?y=z", "https://[x]/", "file:/etc/peili/peers", "file:",
    "static:255.255.255.255:1",
]  # fmt: skip
FILTERS = [
    "(", ")", "[", "a**", "*a", "a{2,1}", "(?P<x", "(?<x>a)", "[z-a]", "x{2000}", "a++", "(?i)latest", "(?=x)",
    "(?!x)y", r"\pL", r"\z", r"\Z", r"\Qa\E", r"\d+\.\w", r"a\\", "a\\", r"\\p", r"^docker\.io/library/.*$",
    "-rc[0-9]+$", r'.*["\\]$$', "$(POD_IP)", "[]a]", "[^]a]", r"[\w.-]+", "a|b", "|", "x{,3}", "+", "a{",
    "(a)\\1", r"\/", r"\_", r"\-", "(?:a|b)+", "a??", "(a))", "((a)", "^*", "é+",
]  # fmt: skip
UPLOADS = [0, 1, 64, 100_000, 100_001, -1]
CASES: list[tuple[str, Parser, Callable[[Any], Values], list[Any]]] = [
    ("resolveTimeout", parse_duration, lambda value: {"resolveTimeout": value}, DURATIONS),
    ("clientNetworks", parse_network, lambda value: {"clientNetworks": [value]}, NETWORKS),
    ("mirroredRegistries", both_registries, lambda value: {"mirroredRegistries": [value]}, REGISTRIES),
    ("extraMirrorTargets", parse_target, lambda value: {"extraMirrorTargets": [value]}, TARGETS),
    ("bootstrap", parse_source, lambda value: {"bootstrap": {"extra": [value]}}, SOURCES),
    ("filters", parse_filter, lambda value: {"filters": [value]}, FILTERS),
    ("maxUploads", lambda value: parse_max_uploads(str(value)), lambda value: {"maxUploads": value}, UPLOADS),
]
# What the program takes and the chart does not: the chart has one spelling, or cannot tell, or mounts no such file.
NARROWER = {
    "file:/etc/peili/peers",
    "::ffff:10.0.0.0/104",
    "1:2:3:4:5:6:7::/112",
    "https://ghcr.io//",
    "https://cache.example.com/a b",
    "https://cache.example.com/ü",
    "static:[::ff]:1",
    "static:255.255.255.255:1",
}
# What the chart cannot judge: constructs that Go's regular expressions do not have.
LEFT_TO_THE_PROGRAM = {"(?P<x", "a{2,1}", "^*"}


def outcome(parser: Parser, value: Any) -> bool:
    try:
        parser(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "parser", "values", "given"),
    [(name, parser, values, given) for name, parser, values, each in CASES for given in each],
    ids=[f"{name} {given}"[:60] for name, _, _, each in CASES for given in each],
)
def test_the_chart_and_the_program_agree(
    chart: Chart, name: str, parser: Parser, values: Callable[[Any], Values], given: Any
) -> None:
    refusal = ""
    try:
        chart.render(values(given))
    except RenderFailed as error:
        refusal = str(error)
    if refusal:
        assert re.search(rf"{name}|values don't meet", refusal)
        assert not outcome(parser, given) or given in NARROWER, refusal
    else:
        assert outcome(parser, given) or given in LEFT_TO_THE_PROGRAM


def test_every_duration_and_network_is_looked_at(chart: Chart) -> None:
    for name in ("resolveTimeout", "stallTimeout", "gracePeriod", "manifestWait"):
        for wrong in ("0s", "25h"):
            with pytest.raises(RenderFailed, match=f"{name} {wrong}: a duration lies between 1ms and 24h"):
                chart.render({name: wrong})
    for name in ("clientNetworks", "peerNetworks"):
        with pytest.raises(RenderFailed, match=f"{name} 10.0.0.5/8: this is an address in a network"):
            chart.render({name: ["10.0.0.0/16", "10.0.0.5/8"]})


def test_a_registry_that_is_named_twice_is_refused(chart: Chart) -> None:
    with pytest.raises(RenderFailed, match="a registry is named twice"):
        chart.render({"mirroredRegistries": ["https://ghcr.io", "http://GHCR.io/"]})


def test_a_filter_that_is_none_is_named(chart: Chart) -> None:
    with pytest.raises(RenderFailed) as caught:
        chart.render({"filters": ["fine", "not(fine"]})
    assert "filters not(fine: not a regular expression" in str(caught.value)
