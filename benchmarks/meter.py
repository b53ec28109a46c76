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
_GROWTH = 0.1  # MB: less is noise
_STABLE = 3.0  # seconds without growth of the highest memory, after which it is called settled
_SETTLE_TIMEOUT = 30.0  # seconds; what still grows then shows in the figure
_LOOK = 0.25  # seconds between two looks


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


def reset_highest(pid: int) -> None:
    """Let the highest resident memory begin anew, at what it is now (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def settled(pid: int) -> Usage:
    """Look at a process when its memory has stopped growing; `highest` is that since reset_highest."""
    highest, changed = 0.0, time.monotonic()
    end = changed + _SETTLE_TIMEOUT
    while True:
        now, used = time.monotonic(), usage(pid)
        if used.highest > highest + _GROWTH:
            highest, changed = used.highest, now
        if now - changed >= _STABLE or now >= end:
            return used
        time.sleep(_LOOK)


def descriptor_limit(pid: int) -> int:
    """How many descriptors a process may have."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))


def idle_share(bench: Bench, pid: int, seconds: float, rounds: int = 1) -> tuple[float, ...]:
    """The CPU that a process uses while nobody asks for anything, in percent of a core, for each of the rounds."""
    shares = []
    for number in range(rounds):
        before, started = cpu_seconds([pid]), time.monotonic()
        time.sleep(seconds)
        shares.append((cpu_seconds([pid]) - before) / (time.monotonic() - started) * 100)
        bench.say(f"idle {number + 1}/{rounds}: {shares[-1]:.2f} % of a core")
    return tuple(shares)
