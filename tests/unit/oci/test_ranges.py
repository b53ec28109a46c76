from __future__ import annotations

import pytest

from peili.oci.ranges import (
    InvalidRange,
    RangeRequest,
    Span,
    UnsatisfiableRange,
    parse_content_range,
    parse_range,
    parse_unsatisfied_range,
    render_content_range,
    render_unsatisfied_range,
)


@pytest.mark.parametrize(
    ("header", "size", "span"),
    [
        ("bytes=5-", 10, Span(5, 10)),
        ("bytes=0-3", 10, Span(0, 4)),
        ("bytes=2-100", 10, Span(2, 10)),
        ("bytes=-3", 10, Span(7, 10)),
        ("bytes=-30", 10, Span(0, 10)),
        ("bytes=9-9", 10, Span(9, 10)),
    ],
)
def test_one_range_is_resolved(header: str, size: int, span: Span) -> None:
    wanted = parse_range(header)
    assert wanted is not None
    assert wanted.resolve(size) == span
    assert parse_range(str(wanted)) == wanted


@pytest.mark.parametrize(
    "header", [None, "", "bytes=0-", "bytes=0-1,5-6", "bytes=5-2", "bytes=-", "items=0-1", "bytes=a-b", "bytes 1-2"]
)
def test_what_is_not_one_range_means_the_whole(header: str | None) -> None:
    assert parse_range(header) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=5-6", 5), ("bytes=-0", 5), ("bytes=-1", 0)]
)
def test_a_range_beyond_the_end_is_unsatisfiable(header: str, size: int) -> None:
    wanted = parse_range(header)
    assert wanted is not None
    with pytest.raises(UnsatisfiableRange):
        wanted.resolve(size)


def test_a_content_range_goes_out_and_comes_back() -> None:
    assert parse_content_range(render_content_range(Span(3, 8), 10)) == (Span(3, 8), 10)


@pytest.mark.parametrize(
    "header", [None, "", "bytes */10", "bytes 5-2/10", "bytes 0-10/10", "bytes 0-1/*", "0-1/2"]
)
def test_a_content_range_that_means_nothing_is_refused(header: str | None) -> None:
    with pytest.raises(InvalidRange):
        parse_content_range(header)


def test_an_unsatisfied_range_goes_out_and_comes_back() -> None:
    assert parse_unsatisfied_range(render_unsatisfied_range(7)) == 7
    for header in (None, "", "bytes */", "bytes 0-1/7", "bytes */-1", "bytes */7x"):
        with pytest.raises(InvalidRange):
            parse_unsatisfied_range(header)


def test_range_requests_compare_by_value() -> None:
    assert RangeRequest(5) == parse_range("bytes=5-")
