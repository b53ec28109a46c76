"""The image's tests need what the integration tests need, and are skipped or fail as those."""

from __future__ import annotations

from tests.integration.conftest import _end_on_sigterm, pytest_runtest_setup

__all__ = ["_end_on_sigterm", "pytest_runtest_setup"]
