from __future__ import annotations

import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.store.inotify import Event, InvalidEvents, Mask, parse_events
from tests.properties.effort import examples

NAMES = st.binary(max_size=64).map(lambda name: name.replace(b"\0", b"x"))
EVENTS = st.tuples(st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), NAMES)


def packed(watch: int, mask: int, name: bytes) -> bytes:
    padded = name + b"\0" * (16 - len(name) % 16) if name else b""
    return struct.pack("=iIII", watch, mask, 0, len(padded)) + padded


@settings(deadline=None, max_examples=examples(300))
@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(buffer: bytes) -> None:
    try:
        events = parse_events(buffer)
    except InvalidEvents:
        return
    assert 16 * len(events) <= len(buffer)


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(EVENTS, max_size=6))
def test_what_the_kernel_packs_comes_out(events: list[tuple[int, int, bytes]]) -> None:
    buffer = b"".join(packed(*event) for event in events)
    assert parse_events(buffer) == [Event(watch, Mask(mask), os.fsdecode(name)) for watch, mask, name in events]


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(EVENTS, min_size=1, max_size=3), st.data())
def test_a_cut_loses_no_whole_event_silently(events: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    buffer = b"".join(packed(*event) for event in events)
    cut = data.draw(st.integers(0, len(buffer)))
    boundaries = {0}
    for event in events:
        boundaries.add(max(boundaries) + len(packed(*event)))
    try:
        parse_events(buffer[:cut])
    except InvalidEvents:
        assert cut not in boundaries
    else:
        assert cut in boundaries
