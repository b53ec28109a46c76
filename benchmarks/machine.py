"""What the figures were measured on, and how busy it was with other things."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_INFORMATION = Path("/proc/cpuinfo")
BUSY = 0.5  # load average by processor before the run, above which figures are not to be trusted


def describe() -> Mapping[str, Any]:
    """For the head of the table and for JSON."""
    load = os.getloadavg()[0]
    cores = os.cpu_count() or 1
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "src")),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": cores,
        "root": os.geteuid() == 0,
        "load_before": load,
        "busy": load > BUSY * cores,
    }


def _processor() -> str:
    try:
        lines = _INFORMATION.read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
