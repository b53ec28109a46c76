"""The chart's package, as `make chart` makes it: all of the chart and nothing else."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from peili.version import VERSION
from tests.chart.rendering import CHART, NEWEST, Chart

pytestmark = pytest.mark.slow
# What a rendering draws anew each time is given.
STABLE = ["--set", "image.repository=r.example.com/p", "--set", "clusterSecret.existingSecret=s"]


def test_the_package_is_the_chart(chart: Chart, tmp_path: Path) -> None:
    chart.run("package", CHART, "--destination", tmp_path)
    package = tmp_path / f"peili-{VERSION}.tgz"
    with tarfile.open(package) as archive:
        names = {name.removeprefix("peili/") for name in archive.getnames()}
    ignored = {".helmignore"}
    files = {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    assert names - ignored == files - ignored
    flags = ["--kube-version", NEWEST, *STABLE]
    assert chart.run("template", "peili", package, *flags) == chart.run("template", "peili", CHART, *flags)


def test_make_chart_packages_it() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "chart"], check=True, capture_output=True, text=True, cwd=CHART.parents[1]
    )
    assert "helm package charts/peili --destination dist" in done.stdout
