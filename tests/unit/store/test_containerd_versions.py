from __future__ import annotations

import pytest

from peili.store.containerd.store import download_slots


@pytest.mark.parametrize(
    ("version", "slots"),
    [
        ("1.6.20~ds1", 0),
        ("v1.7.24", 0),
        ("2.0.4", 0),
        ("2.1.9", 3),
        ("v2.2.0-rc.1", 3),
        ("10.0.0", 3),
        ("", 0),
        ("x", 0),
    ],
)
def test_the_node_wide_limit_of_downloads_came_with_2_1(version: str, slots: int) -> None:
    assert download_slots(version) == slots
