"""The tests of the Helm chart; those that need helm are skipped with a reason where there is none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `tests.chart` is a package for these tests only

from tests.chart import install  # noqa: E402 it needs the path above
from tests.chart.rendering import Chart  # noqa: E402


def give_up(reason: str) -> None:
    """Skip, or fail where that is not allowed."""
    if install.required():
        pytest.fail(f"PEILI_REQUIRE_CONTAINERD=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm program."""
    try:
        return install.find_helm()
    except install.InstallError as error:
        give_up(f"no helm: {error}")
        raise


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The promtool program."""
    try:
        return install.find_promtool()
    except install.InstallError as error:
        give_up(f"no promtool: {error}; run tests/chart/install.py")
        raise


@pytest.fixture(scope="session")
def yaml_reader() -> None:
    """Needs what the Kubernetes schemas come with."""
    for module in ("yaml", "kubernetes_validate"):
        if importlib.util.find_spec(module) is None:
            give_up(f"no Python module {module}: install kubernetes-validate (requirements/test.in)")


@pytest.fixture(scope="session")
def chart(helm: Path, yaml_reader: None, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The chart, ready to be rendered."""
    return Chart(helm, tmp_path_factory.mktemp("helm"))
