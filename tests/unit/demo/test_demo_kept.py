"""`make demo KEEP=1`: after the story the nodes go on and answer until somebody ends it; nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from peili.demo.story import NODES
from peili.http.client import Client
from peili.http.message import Headers, SocketAddress

pytestmark = pytest.mark.slow

PATIENCE = 120.0  # seconds
# The whole story, over links ten times as fast: here it is about its end. Tests that a script has put into the
# background have SIGINT ignored, under nohup SIGHUP; what is started from a terminal has not.
FAST = """
import signal
from peili.cli import main
from peili.demo import story
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
story.UPSTREAM_RATE *= 10
story.NODE_RATE *= 10
main(["demo", "--keep"])
"""
ROOT = Path(__file__).parents[3]


def processes_in(directory: Path) -> list[int]:
    """Who has this directory on its command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


@asynccontextmanager
async def demo(directory: Path, log: Path) -> AsyncIterator[trio.Process]:
    """Started; killed with its nodes where a test leaves it running."""
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", "-c", FAST],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(directory)},
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
                await process.wait()
            for pid in processes_in(directory):
                os.kill(pid, signal.SIGKILL)


async def wait_for(process: trio.Process, log: Path, words: str) -> str:
    """What it has said, once it has said this."""
    while words not in (said := log.read_text()):
        assert process.poll() is None, said
        await trio.sleep(0.05)
    return said


async def ask(url: str) -> tuple[int, bytes]:
    found = re.fullmatch(r"http://([0-9.]+):([0-9]+)(/\S+)", url)
    assert found is not None, url
    client = Client()
    try:
        async with await client.open(
            SocketAddress(found[1], int(found[2])), "GET", found[3], Headers(), connect_timeout=5, head_timeout=5
        ) as response:
            return response.status, await response.read(4_000_000, timeout=5)
    finally:
        await client.aclose()


async def test_the_nodes_go_on_and_answer_until_ctrl_c(tmp_path: Path) -> None:
    directory, log = tmp_path / "base", tmp_path / "log"
    directory.mkdir()
    with trio.fail_after(PATIENCE):
        async with demo(directory, log) as process:
            said = await wait_for(process, log, "End it with Ctrl-C.")
            assert "pull while upstream is down" in said
            shown = re.search(r"status --operations-address (\S+)", said)
            metrics, manifest = re.search(r"curl -s (\S+/metrics)", said), re.search(r"curl -sI '(\S+)'", said)
            assert shown is not None
            assert metrics is not None
            assert manifest is not None
            status = json.loads((await ask(f"http://{shown[1]}/status"))[1])
            assert status["ready"] is True
            assert b"\npeili_" in (await ask(metrics[1]))[1]
            assert (await ask(manifest[1]))[0] == 200  # upstream is stopped: it is what nodes have
            assert len(processes_in(directory)) == NODES - said.count(" is killed after ")
            os.kill(process.pid, signal.SIGINT)
            assert await process.wait() == 0
            assert processes_in(directory) == []
    assert log.read_text().endswith("stopped\n")
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
async def test_a_story_that_is_ended_in_the_middle_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    directory, log = tmp_path / "base", tmp_path / "log"
    directory.mkdir()
    with trio.fail_after(PATIENCE):
        async with demo(directory, log) as process:
            await wait_for(process, log, "All nodes are ready")
            for _ in range(4):  # a terminal that is closed may say so twice, the second time while the nodes end
                if process.poll() is None:
                    os.kill(process.pid, number)
                await trio.sleep(0.03)
            assert await process.wait() == 0
            assert processes_in(directory) == []
    assert log.read_text().endswith("stopped\n")
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(("words", "command"), [(["KEEP=1"], "peili demo --keep"), ([], "peili demo")])
def test_make_passes_it_on(words: list[str], command: str) -> None:
    said = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "demo", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name not in ("KEEP", "MAKEFLAGS", "MAKELEVEL")},
    ).stdout
    assert said.splitlines()[-1].strip() == f".venv/bin/{command}"
