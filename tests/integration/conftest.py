"""The integration tests: real containerds, real registries, real processes in network namespaces."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

# gRPC's threads and fork do not mix; it reads this when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `tests.integration.lab` is a package for these tests only

from tests.integration import install  # noqa: E402 it needs the path above
from tests.integration.lab.leaks import Leaks  # noqa: E402
from tests.integration.lab.node import Node  # noqa: E402


def why_not() -> str:
    """Why the tests with containerd cannot run here; empty where they can."""
    if os.geteuid() != 0:
        return "not root: containerd and network namespaces need it"
    if missing := install.missing_packages():
        return f"not installed: {', '.join(missing)}; run tests/integration/install.py"
    if not install.ROOT_FILE_SYSTEM.exists():
        return f"no {install.ROOT_FILE_SYSTEM}; run tests/integration/install.py"
    for suite in ("installed", *install.SUITES):
        try:
            install.version(suite)
        except install.InstallError as error:
            return f"no containerd of {suite}: {error}; run tests/integration/install.py"
    return ""


@pytest.fixture(scope="session", autouse=True)
def _end_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the tests as Ctrl-C does: what they started is taken down."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


_reasons: list[str] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail where the tests with containerd are required, with the reason."""
    if item.get_closest_marker("containerd") is None:
        return
    if not _reasons:
        _reasons.append(why_not())
    if reason := _reasons[0]:
        if os.environ.get("PEILI_REQUIRE_CONTAINERD") == "1":
            pytest.fail(f"PEILI_REQUIRE_CONTAINERD=1, but {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def leaks() -> Leaks:
    """What the nodes of a module used at first."""
    return Leaks()


@pytest.fixture
def nothing_is_left(leaks: Leaks, nodes: list[Node]) -> Iterator[None]:
    """After a test with faults the module's `nodes` are as they were; for `pytestmark`."""
    with leaks.none(nodes):
        yield
