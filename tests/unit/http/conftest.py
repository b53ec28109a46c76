"""Makes `tests.unit.http.loopback` importable from the tests of this room, and closes what they opened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.unit.http.loopback import close_opened  # noqa: E402 it needs the path above


@pytest.fixture(autouse=True)
def _close_opened() -> Iterator[None]:
    yield
    close_opened()
