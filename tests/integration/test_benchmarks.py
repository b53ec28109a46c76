"""The benchmarks run, two of the fastest, as small as they get: their harness cannot rot. How goals are judged."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import markdown, report
from benchmarks.bench import Benchmark
from benchmarks.exposition import total
from benchmarks.figure import Figure, Goal
from benchmarks.slow_readers import Reader, said, take

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
            assert figure["met"] is None, "goals are for whole runs"
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "something was left behind"


def test_what_is_promised_at_most_is_judged_by_the_worst_value() -> None:
    values = (1.0, 1.5, 2.5)
    assert Figure("usual", "s", values, Goal(2.0)).met
    assert not Figure("at most", "s", values, Goal(2.0), judge_worst=True).met
    assert not Figure("at least", "s", values, Goal(1.2, True), judge_worst=True).met
    assert Figure("at least", "s", values, Goal(1.2, True)).met


def test_both_tables_say_that_a_goal_is_for_each_value() -> None:
    figure = Figure("cost", "s", (1.0, 1.5, 2.5), Goal(2.0), judge_worst=True)
    outcome = report.Outcome(Benchmark("lost", "a title", lambda bench: iter([figure])), (figure,))
    machine = dict.fromkeys(("time", "commit", "cores", "processor", "kernel", "python"), "?")
    facts = {**machine, "changed": False, "busy": False, "load_before": 0.0}

    assert "each <= 2" in report.table(facts, [outcome])
    row = list(markdown.lines(report.document(facts, [outcome])))[-1]
    assert row == "| cost | 1.5 s | 1 to 2.5 | each at most 2 | **no** |"


def test_slow_readers_know_refusals_and_stop_after_the_head() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        readers = [Reader(ours, 0.0, stops=stops) for stops in (False, True, False)]
        for piece in (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"\r\nabc"):
            take(readers[0], piece)
            take(readers[1], piece)
        take(readers[2], b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")

        assert said(readers) == "begun 2 refused 1 ended 0 bytes 6 least 3"
        assert [reader.reads for reader in readers] == [True, False, True]


def test_a_metric_is_summed_over_the_labels_that_are_not_named() -> None:
    text = '# HELP a_total A.\na_total{way="copied",x="1"} 2.0\na_total{way="spliced",x="1"} 3.0\nb 4\n'
    assert total(text, "a_total") == 5.0
    assert total(text, "a_total", way="copied") == 2.0
    assert total(text, "b") == 4.0
    assert total(text, "a_total", way="other") is None
