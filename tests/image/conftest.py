"""The image's tests need what those of integration and of the chart need, and are skipped or fail as those."""

from __future__ import annotations

from tests.chart.conftest import chart, helm, yaml_reader
from tests.integration.conftest import _end_on_sigterm, pytest_runtest_setup

__all__ = ["_end_on_sigterm", "chart", "helm", "pytest_runtest_setup", "yaml_reader"]
