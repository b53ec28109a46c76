"""The command: `python -m benchmarks [NAME…] [--quick] [--json FILE]`, from the root of the project."""

from __future__ import annotations

import os

# gRPC's threads and fork do not mix; it reads this when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from benchmarks import launch, machine, report
from benchmarks.bench import Bench, Benchmark, CannotMeasure
from benchmarks.catalogue import BENCHMARKS
from tests.integration.conftest import why_not
from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.laboratory import base_directory

_ROOM = 12 << 30  # bytes of memory that must be free for the files to lie there


def main() -> int:
    """Run the benchmarks that the arguments name; 1 where one failed."""
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {benchmark.name for benchmark in BENCHMARKS}:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; see --help")
    signal.signal(signal.SIGTERM, _interrupt)
    about = {**machine.describe(), "quick": arguments.quick, "containerd": arguments.containerd}
    chosen = [benchmark for benchmark in BENCHMARKS if not arguments.names or benchmark.name in arguments.names]
    outcomes = run(chosen, arguments)
    print(report.table(about, outcomes))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.document(about, outcomes), indent=1) + "\n")
    return int(any(outcome.failed for outcome in outcomes))


def run(chosen: Sequence[Benchmark], arguments: argparse.Namespace) -> list[report.Outcome]:
    """One after another, with their files in a directory that goes at the end."""
    outcomes: list[report.Outcome] = []
    no_lab = why_not() if any(benchmark.lab for benchmark in chosen) else ""
    with tempfile.TemporaryDirectory(prefix=f"peili-{os.getpid()}-bench-", dir=base_directory(_ROOM)) as directory:
        mirrors = tuple(arguments.mirrors.split(","))
        launch.without_what_the_tests_bring(Path(directory))
        bench = Bench(Path(directory), arguments.quick, arguments.containerd, mirrors, arguments.runs)
        for benchmark in chosen:
            try:
                outcomes.append(measure(bench, benchmark, no_lab))
            except KeyboardInterrupt:
                outcomes.append(report.Outcome(benchmark, failed="interrupted"))
                break
    return outcomes


def measure(bench: Bench, benchmark: Benchmark, no_lab: str) -> report.Outcome:
    """One benchmark; what goes wrong in it is its own outcome and does not keep the others from running."""
    if benchmark.lab and no_lab:
        bench.say(f"{benchmark.name}: not measured: {no_lab}")
        return report.Outcome(benchmark, skipped=no_lab)
    bench.say(f"{benchmark.name}: {benchmark.title}")
    figures = []
    failed = ""
    started, load = time.monotonic(), os.getloadavg()[0]
    try:
        for figure in benchmark.run(bench):
            # The goals are for whole sizes and counts: small ones would meet them for nothing.
            figures.append(replace(figure, goal=None) if bench.quick else figure)
            bench.say(f"{benchmark.name}: {figure.name}: {report.number(figure.median)} {figure.unit}")
    except CannotMeasure as error:
        bench.say(f"{benchmark.name}: not measured: {error}")
        return report.Outcome(benchmark, skipped=str(error))
    except Exception as error:  # noqa: BLE001 a benchmark may fail in any way, and the others still have to run
        words = f"{type(error).__name__}: {error}".strip().splitlines()
        failed = " … ".join(dict.fromkeys((words[0], words[-1])))[:500]
        traceback.print_exc()
    return report.Outcome(benchmark, tuple(figures), "", failed, time.monotonic() - started, load)


def _parser() -> argparse.ArgumentParser:
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names)}; none: all")
    parser.add_argument("--quick", action="store_true", help="small and few: whether it runs; judges no goal")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument("--runs", type=int, help="how often pulls are measured")
    parser.add_argument("--mirrors", default="none,peili", help="what pulls are made with, by turns: none,peili")
    parser.add_argument("--containerd", choices=VERSIONS, default=VERSIONS[-1], help="which containerd pulls")
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
