"""Any text is a setting's value or refused; any answer to a bootstrap request is a body or an OSError."""

from __future__ import annotations

from collections.abc import Callable

import h11
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from peili import settings as run_settings
from peili.routing import fetch
from tests.properties.effort import examples

PARSERS: list[Callable[[str], object]] = [
    run_settings.parse_socket_address,
    run_settings.parse_ip_address,
    run_settings.parse_network,
    run_settings.parse_duration,
    run_settings.parse_max_uploads,
    run_settings.parse_mirrored_registry,
    run_settings.parse_filter,
    run_settings.parse_zone,
]
PIECES = st.sampled_from(
    ["127.0.0.1", "[::1]", ":5000", "/24", "https://", "ghcr.io", "1e9", "ms", "nan", "-1", "٣", "("]
)
TEXT = st.text(max_size=20) | st.lists(PIECES | st.text(max_size=3), max_size=4).map("".join)


@settings(deadline=None, max_examples=examples(300))
@given(st.sampled_from(PARSERS), TEXT)
def test_any_text_is_a_value_or_refused(parser: Callable[[str], object], text: str) -> None:
    try:
        parser(text)
    except ValueError:
        return


LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 \r\n",
        b"HTTP/1.1 301 x\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"abc",
        b"\0",
    ]
)
ANSWERS = st.lists(LINES | st.binary(max_size=10), max_size=12).map(b"".join)


async def exchange(answer: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(answer)
    await theirs.send_eof()
    try:
        body = await fetch._exchange(ours, "a", "/", 100)
    except (OSError, h11.ProtocolError):
        return
    assert len(body) <= 100


@settings(deadline=None, max_examples=examples(200))
@given(ANSWERS)
def test_any_answer_to_a_bootstrap_request(answer: bytes) -> None:
    trio.run(exchange, answer)
