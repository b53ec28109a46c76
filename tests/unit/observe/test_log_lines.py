"""Log lines never wait and never fail, whatever became of their reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peili.observe.log_lines import LogLines


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def say(lines: LogLines, text: str) -> None:
    print(text, file=lines, flush=True)


def test_lines_are_written_whole(pipe: tuple[int, int]) -> None:
    lines = LogLines(pipe[1])
    say(lines, "one")
    say(lines, "long " * 5000)
    os.close(pipe[1])
    with os.fdopen(pipe[0]) as file:
        assert file.read() == "one\n" + "long " * 5000 + "\n"


def test_a_reader_that_stopped_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    lines = LogLines(pipe[1])
    for number in range(3000):  # much more than the pipe's 64 KiB
        say(lines, json.dumps({"event": "request", "number": number, "text": "x" * 100}))
    lost = lines.lost
    assert lost > 2000
    received = bytearray()
    os.set_blocking(pipe[0], False)
    while True:
        try:
            received += os.read(pipe[0], 1 << 20)
        except BlockingIOError:
            break
    say(lines, json.dumps({"event": "again"}))
    received += os.read(pipe[0], 1 << 20)
    parsed = []
    for line in received.splitlines():
        try:
            parsed.append(json.loads(line))
        except ValueError:
            parsed.append("cut")
    assert parsed.count("cut") <= 1
    assert parsed[-1] == {"event": "again"}
    assert parsed[-2]["lines"] == lost
    assert lines.lost == 0
    os.close(pipe[0])
    os.close(pipe[1])


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    lines = LogLines(pipe[1])
    for _ in range(3):
        say(lines, "nobody hears")
    assert lines.lost == 3
    os.close(pipe[1])


def test_a_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        lines = LogLines(full.fileno())
        say(lines, "no space left")
        assert lines.lost == 1
