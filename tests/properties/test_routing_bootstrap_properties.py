"""Any text parses or raises InvalidBootstrap, and what was parsed is written back as itself."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.routing.bootstrap import (
    BootstrapAddress,
    InvalidBootstrap,
    parse_address,
    parse_lines,
    parse_listing,
    parse_source,
)
from tests.properties.effort import examples

ports = st.integers(1, 65535)
addresses = st.ip_addresses().filter(lambda ip: not ip.is_unspecified and not ip.is_multicast)
words = ["dns", "http", "https", "static", "file", "ip4", "tcp", "p2p", "::1", "1.2.3.4", "5001", *":/[]@,#%\n"]
pieces = st.lists(st.sampled_from(words) | st.text(max_size=8), max_size=12).map("".join)


@settings(deadline=None, max_examples=examples(300))
@given(st.text(max_size=200) | pieces)
def test_any_text_parses_or_raises(text: str) -> None:
    for parse in (parse_source, parse_address, parse_lines):
        with contextlib.suppress(InvalidBootstrap):
            parse(text)


@settings(deadline=None, max_examples=examples(200))
@given(st.binary(max_size=200))
def test_any_body_parses_or_raises(body: bytes) -> None:
    with contextlib.suppress(InvalidBootstrap):
        parse_listing(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["ID", "Addrs"]) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=examples(200))
@given(json_values)
def test_any_json_parses_or_raises(value: object) -> None:
    with contextlib.suppress(InvalidBootstrap):
        parse_listing(json.dumps(value).encode())


@settings(deadline=None, max_examples=examples(200))
@given(addresses, ports)
def test_addresses_are_written_back_as_themselves(ip: object, port: int) -> None:
    address = BootstrapAddress(str(ip), port)
    assert parse_address(str(address)) == address
    family = "ip6" if ":" in str(ip) else "ip4"
    assert parse_address(f"/{family}/{ip}/tcp/{port}") == address
