"""What the kernel says about processes: CPU time, memory, descriptors, threads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench

TICK = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1_000_000


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and all their threads; the kernel counts in ticks of 10 ms."""
    return sum(_ticks(pid) for pid in pids) / TICK


def _ticks(pid: int) -> int:
    # proc(5): the second field is a name in parentheses, which may hold anything; utime and stime are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@dataclass(frozen=True, slots=True)
class Usage:
    """A process now. Memory in MB (a million bytes): resident, its anonymous part, and the highest so far."""

    resident: float
    anonymous: float
    highest: float
    threads: int
    descriptors: int
    pipes: int


def usage(pid: int) -> Usage:
    """Look at a process."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = {words[0]: words[1] for words in lines if len(words) > 1}
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(str(link.readlink()))
        except OSError:
            continue  # it was closed meanwhile

    def megabytes(name: str) -> float:
        return int(fields[name]) * 1024 / MEGABYTE

    return Usage(
        megabytes("VmRSS:"),
        megabytes("RssAnon:"),
        megabytes("VmHWM:"),
        int(fields["Threads:"]),
        len(targets),
        sum(target.startswith("pipe:") for target in targets),
    )


def idle_share(bench: Bench, pid: int, seconds: float, rounds: int) -> tuple[float, ...]:
    """The CPU that a process uses while nobody asks for anything, in percent of a core, for each of the rounds."""
    shares = []
    for number in range(rounds):
        before, started = cpu_seconds([pid]), time.monotonic()
        time.sleep(seconds)
        shares.append((cpu_seconds([pid]) - before) / (time.monotonic() - started) * 100)
        bench.say(f"idle {number + 1}/{rounds}: {shares[-1]:.2f} % of a core")
    return tuple(shares)
