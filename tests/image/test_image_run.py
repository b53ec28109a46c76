"""The image in real containerds, run by runc as the chart runs it: version, check, configure, run, and pulls."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from deploy import build_image

from peili.version import VERSION
from tests.chart.rendering import Chart
from tests.image import in_containerd
from tests.image.in_containerd import MEMORY_LIMIT, ImageNode, image_nodes, memory
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.processes import CommandError, Process
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd
SUITES = ("sid", "installed")
IDLE_GOAL = 72_000_000  # bytes, resident
SMALL = 120_000_000  # bytes, unpacked
PYTHON = ("/usr/bin/python3", "-IB")
# Everything in the image that is a program, and what the process may do.
LOOK_AROUND = """
import json, os
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
own = [root for root in map(Path, ("/usr", "/etc", "/var", "/run", "/tmp"))]
files = [path for root in own for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
def refused():
    try:
        Path("/usr/written").write_text("")
    except OSError as error:
        return os.strerror(error.errno)
print(json.dumps({
    "programs": sorted(str(path) for path in files if os.access(path, os.X_OK) and ".so" not in path.name),
    "special": sorted(str(path) for path in files if path.stat().st_mode & 0o6000),
    "bounding": int(status["CapBnd"], 16), "effective": int(status["CapEff"], 16),
    "user": [os.getuid(), os.getgid()],
    "no_new_privileges": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
    "refused": refused(),
}))
"""
IMPORT_ALL = """
import importlib, pkgutil, peili
names = [module.name for module in pkgutil.walk_packages(peili.__path__, "peili.") if ".api." not in module.name]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if reason := in_containerd.why_no_memory_limit():
        if os.environ.get("PEILI_REQUIRE_CONTAINERD") == "1":
            pytest.fail(f"PEILI_REQUIRE_CONTAINERD=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture(scope="module")
def nodes(lab: Lab, chart: Chart) -> list[ImageNode]:
    """Two nodes, one with containerd 2.x and one with 1.6; both configured by a container, none runs yet."""
    made = image_nodes(lab, chart, *SUITES)
    for node in made:
        node.configure()
    return made


@pytest.fixture(scope="module")
def cluster(nodes: list[ImageNode]) -> list[ImageNode]:
    for node in nodes:
        node.start_peili()
    for node in nodes:
        node.wait_peili()
    return nodes


@pytest.mark.parametrize("number", range(len(SUITES)), ids=SUITES)
def test_the_version_is_the_wheels(nodes: list[ImageNode], number: int) -> None:
    assert nodes[number].run("version") == f"peili {VERSION}\n"


def test_the_image_holds_no_program_but_python_and_runs_with_no_rights(nodes: list[ImageNode]) -> None:
    found = json.loads(nodes[0].run("-c", LOOK_AROUND, program=PYTHON))

    assert found["user"] == [0, 0]
    assert [name.rstrip("0123456789.") for name in found["programs"]] == ["/usr/bin/peili", "/usr/bin/python"]
    assert found["special"] == []
    assert found["refused"] == "Read-only file system"
    assert (found["bounding"], found["effective"]) == (0, 0)
    assert (found["no_new_privileges"], found["seccomp"]) == ("1", "2")


def test_every_module_of_peili_finds_what_it_imports(nodes: list[ImageNode]) -> None:
    """What deploy/rootfs.py leaves out, nothing needs."""
    assert int(nodes[0].run("-c", IMPORT_ALL, program=PYTHON)) > 50


def test_the_cleanup_pod_idles_as_nobody_until_it_is_told_to_end(nodes: list[ImageNode]) -> None:
    node = nodes[0]
    assert json.loads(node.run("-c", LOOK_AROUND, container="idle", program=PYTHON))["user"] == [65534, 65534]

    idle = Process(node.words("idle"), node.runs.run_directory.parent / "idle.log")
    try:
        wait_until(lambda: "cleaned up" in idle.log_end(), "the script's word", 30.0)
        idle.check_running()
        assert idle.terminate() == 0
    finally:
        idle.kill()


def test_the_job_that_waits_for_the_cleanup_has_what_it_imports_and_says_what_it_lacks(
    nodes: list[ImageNode],
) -> None:
    """What it does is tested with an API server of the chart's tests; here is none, and no account for it."""
    with pytest.raises(CommandError, match=r"(?s)/scripts/wait_for_cleanup\.py.*serviceaccount/namespace"):
        nodes[0].run(container="wait")
    functions = "import runpy; names = runpy.run_path('/scripts/wait_for_cleanup.py')"
    status = {"observedGeneration": 1, "numberReady": 1, "desiredNumberScheduled": 2}
    call = f"print(names['progress']({{'metadata': {{}}, 'status': {status}}}))"
    text = f"{functions}; import ssl; ssl.create_default_context(); {call}"
    assert nodes[0].run("-c", text, container="wait", program=PYTHON) == "(1, 2)\n"


def test_what_forgets_an_identity_finds_what_it_imports(nodes: list[ImageNode]) -> None:
    """It is in no pod by default."""
    script = (build_image.ROOT / "charts/peili/files/forget_identity.py").read_text()
    assert nodes[0].run("-c", script, "/nowhere", program=("python3",)) == ""


def test_the_image_is_small() -> None:
    """As containerd unpacks it."""
    built = in_containerd.image()
    print(f"{built.name}: {built.unpacked / 1e6:.1f} MB unpacked, {built.compressed / 1e6:.1f} MB to pull")
    assert built.unpacked < SMALL


@pytest.mark.parametrize("number", range(len(SUITES)), ids=SUITES)
def test_configure_writes_and_check_reads_through_the_mounts(nodes: list[ImageNode], number: int) -> None:
    node = nodes[number]
    written = (node.containerd.hosts / "_default/hosts.toml").read_text()
    assert "http://127.0.0.1:5000" in written

    findings = json.loads(node.run("check", "--json"))
    levels = {finding["name"]: finding["level"] for finding in findings}

    looked_at = ("socket", "version", "content", "config_path", "hosts.toml")
    assert {name: levels[name] for name in looked_at} == dict.fromkeys(looked_at, "ok")


def test_configure_without_the_right_to_write_says_so(nodes: list[ImageNode]) -> None:
    path = f"--containerd-config-path={nodes[0].containerd.hosts}"
    with pytest.raises(CommandError, match=r"problem: .*Read-only file system"):
        nodes[0].run("configure", path, "--mirror-target=http://127.0.0.1:5009")


def test_a_pull_goes_through_the_image(lab: Lab, cluster: list[ImageNode]) -> None:
    """Both ways between the versions, while upstream is away."""
    registry = lab.registry()
    for first, second in (cluster, reversed(cluster)):
        image = lab.pool.random_image(f"through-{first.containerd.suite}", layers=3, size=8 << 20)
        reference = registry.add(image, "team/through", first.containerd.suite)
        first.pull(reference)
        wait_offered(second, reference, image)

        with stopped(registry):
            second.pull(reference)

        assert second.holds(image)


def test_the_memory_limit_holds(cluster: list[ImageNode]) -> None:
    """Runs after the pull: what stays resident then."""
    for node in cluster:
        used = memory(node)
        print(f"{node!r}: {used}")
        assert used.limit == MEMORY_LIMIT
        assert used.resident < IDLE_GOAL


def test_sigterm_ends_the_container_and_cleanup_puts_everything_back(cluster: list[ImageNode]) -> None:
    for node in cluster:
        assert node.stop_peili() == 0
        node.cleanup()
        assert not (node.containerd.hosts / "_default").exists()
        text = "".join(path.read_text() for path in node.containerd.hosts.rglob("hosts.toml"))
        assert "127.0.0.1" not in text
