"""`peili demo` as it is told to people: the whole story, and what its table promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.slow

PATIENCE = 300.0  # seconds; alone on two cores it takes 45
WEB, NEW, MODEL = 20.0, 27.0, 50.0  # MB
_ROW = re.compile(
    r" {3}(?P<what>\S.*?) {2,}(?P<seconds>[0-9.]+) +(?P<upstream>[0-9.]+) MB +"
    r"(?:(?P<impossible>impossible)|[0-9.]+ +(?P<plain>[0-9.]+) MB)"
)


@dataclass(frozen=True)
class Row:
    """What upstream sent, in MB, with Peili and without; `plain` is None where it could not work."""

    upstream: float
    plain: float | None


def table(output: str) -> dict[str, Row]:
    rows = {}
    for line in output.splitlines():
        if found := _ROW.fullmatch(line):
            plain = None if found["impossible"] else float(found["plain"])
            rows[found["what"]] = Row(float(found["upstream"]), plain)
    return rows


async def test_the_demo_plays_to_its_end_and_its_table_keeps_its_promises(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        ended = await trio.run_process(
            [sys.executable, "-m", "peili", "demo"],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    output = ended.stdout.decode()
    assert ended.returncode == 0, output
    rows = table(output)
    assert list(rows) == [
        "rollout on 4 nodes",
        "new image on 5 nodes at once",
        "pull while its source is killed",
        "pull while upstream is down",
    ], output
    rollout, new, killed, down = rows.values()
    # The busier the machine, the more often upstream is asked: half an image more is still a cluster that shares.
    assert WEB <= rollout.upstream < 1.5 * WEB, output
    assert rollout.plain is not None
    assert rollout.plain > 3.9 * WEB
    assert NEW <= new.upstream < 2.5 * NEW, output
    assert new.plain is not None
    assert new.plain > 4.9 * NEW
    assert killed.upstream < 0.5 * MODEL, output
    assert re.search(r">>> node [12] is killed after [0-9]+ MB <<<", output)
    assert (down.upstream, down.plain) == (0.0, None)
    assert list(tmp_path.iterdir()) == []
