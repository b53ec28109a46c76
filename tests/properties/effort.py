"""How hard the property tests try: `make fuzz` sets PEILI_FUZZ, by which every number of examples is multiplied."""

from __future__ import annotations

import os

FACTOR = max(1, int(os.environ.get("PEILI_FUZZ", "1")))


def examples(count: int) -> int:
    """So many examples in `make test`."""
    return count * FACTOR
