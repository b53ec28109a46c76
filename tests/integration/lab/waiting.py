"""Wait for conditions by asking for them; nothing in the laboratory waits for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PROBE_INTERVAL = 0.02  # seconds between two questions

T = TypeVar("T")


class NotInTime(AssertionError):
    """A condition did not come true in time; the text says which, and what was seen last."""


def wait_until(probe: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Ask `probe` until its answer is true, and return that; raise NotInTime after `timeout` seconds.

    An OSError or an AssertionError of the probe means not yet, and is named where the time runs out.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            answer = probe()
            seen = repr(answer)
        except (OSError, AssertionError) as error:
            answer, seen = None, f"{type(error).__name__}: {error}"
        if answer:
            return answer
        if time.monotonic() > end:
            raise NotInTime(f"not within {timeout:g} s: {what}; seen last: {seen[:2000]}")
        time.sleep(PROBE_INTERVAL)
