"""The benchmarks run: two of the fastest, as small as they get, so that their harness cannot rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 150.0  # seconds; they take ten


@pytest.mark.slow
def test_quick_benchmarks_print_a_table_and_write_json(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "slow-transfers", "kademlia", "--quick", f"--json={written}"]
    environment = {**os.environ, "PEILI_LAB_DIRECTORY": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )

    assert done.returncode == 0, done.stderr
    benchmarks = {found["name"]: found for found in json.loads(written.read_text())["benchmarks"]}
    assert list(benchmarks) == ["slow-transfers", "kademlia"]
    for found in benchmarks.values():
        assert found["figures"]
        for figure in found["figures"]:
            assert figure["name"] in done.stdout
            assert figure["min"] <= figure["median"] <= figure["max"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "something was left behind"
