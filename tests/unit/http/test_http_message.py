from __future__ import annotations

import pytest

from peili.http.message import Headers, SocketAddress


def test_addresses_are_written_as_in_a_url() -> None:
    assert str(SocketAddress("1.2.3.4", 80)) == "1.2.3.4:80"
    assert str(SocketAddress("::1", 80)) == "[::1]:80"


def test_an_ipv4_address_mapped_into_ipv6_is_an_ipv4_address() -> None:
    assert SocketAddress.of(("::ffff:10.0.0.1", 5000, 0, 0)) == SocketAddress("10.0.0.1", 5000)
    assert SocketAddress.of(("fe80::1", 5000, 0, 2)) == SocketAddress("fe80::1", 5000)


def test_headers_are_found_without_regard_to_case_and_keep_their_order() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers.get("a") == "1"
    assert headers.get_all("A") == ("1", "3")
    assert headers.get("c") is None
    assert list(headers) == [("A", "1"), ("b", "2"), ("a", "3")]
    assert "B" in headers
    assert "C" not in headers
    assert len(headers) == 3


def test_with_replaces_all_values_and_leaves_the_original() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert list(headers.with_("a", "4")) == [("b", "2"), ("a", "4")]
    assert list(headers.without("A")) == [("b", "2")]
    assert len(headers) == 3


def test_equal_headers_are_equal_whatever_their_case() -> None:
    assert Headers.of({"A": "1"}) == Headers.of({"a": "1"})
    assert hash(Headers.of({"A": "1"})) == hash(Headers.of({"a": "1"}))
    assert Headers.of({"A": "1"}) != Headers.of({"A": "2"})


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\0b", " a", "a ", "ü€", "\x7f"])
def test_a_value_that_cannot_be_sent_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="value"):
        Headers.of({"Name": value})


@pytest.mark.parametrize("name", ["", "a b", "a:", "ü", "a\n"])
def test_a_name_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Headers.of({name: "value"})


def test_ordinary_values_are_taken() -> None:
    for value in ("", "a", "a b\tc", 'W/"x"', "caf\xe9"):
        assert Headers.of({"Name": value}).get("name") == value
