"""Numbers out of what /metrics says (Prometheus' text format)."""

from __future__ import annotations

import re


def total(text: str, name: str, **labels: str) -> float | None:
    """The sum of a metric over those of its labels that are not named; None where no such line is there."""
    values = [
        float(value)
        for found, value in re.findall(rf"^{re.escape(name)}(?:{{([^}}]*)}})? (\S+)$", text, re.MULTILINE)
        if all(f'{label}="{wanted}"' in found for label, wanted in labels.items())
    ]
    return sum(values) if values else None
