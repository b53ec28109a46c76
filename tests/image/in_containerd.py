"""A node whose Peili runs from its image, by the node's containerd and runc, as the rendered chart says."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import build_image

from tests.chart.rendering import Chart, Object, Rendered
from tests.image.rendered_pod import ENTRY_POINT, RenderedPods
from tests.integration import install
from tests.integration.lab.containerd import Containerd
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.network import CONFIGURED, Namespace
from tests.integration.lab.node import OPERATIONS_PORT, REGISTRY_PORT, ROUTER_PORT, Node
from tests.integration.lab.processes import CommandError, Process, command

MEMORY_LIMIT = 128 << 20  # bytes; the chart's limit
CGROUPS = Path("/sys/fs/cgroup")


@functools.cache
def image() -> build_image.Built:
    """The image, built once for what is in the working tree."""
    with tempfile.NamedTemporaryFile("w", suffix=".sources") as sources:
        sources.write(install.debian_source().stanza(build_image.SUITE))
        sources.flush()
        return build_image.build(install.CACHE / "image", Path(sources.name))


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A mounted control group hierarchy, as /proc/self/mountinfo tells it."""

    mount_point: str
    kind: str  # "cgroup" (version 1, one hierarchy a controller) or "cgroup2"
    options: str  # for version 1 its controllers


def cgroups() -> list[Cgroup]:
    """The hierarchies below /sys/fs/cgroup (proc_pid_mountinfo(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()
        if kind in ("cgroup", "cgroup2") and left.split()[4].startswith(str(CGROUPS)):
            controllers = [word for word in options.split(",") if word not in ("rw", "ro")]
            if "name=systemd" in controllers:
                controllers = ["none", "name=systemd"]
            found.append(Cgroup(left.split()[4], kind, ",".join(controllers)))
    return found


def why_no_memory_limit() -> str:
    """Why no memory limit can be set on this machine; empty where one can."""
    mounted = cgroups()
    if any(group.kind == "cgroup" and "memory" in group.options.split(",") for group in mounted):
        where, writable = CGROUPS / "memory", os.access(CGROUPS / "memory", os.W_OK)
    elif any(group.kind == "cgroup2" and group.mount_point == str(CGROUPS) for group in mounted):
        controllers = (CGROUPS / "cgroup.controllers").read_text().split()
        if "memory" not in controllers:
            return f"{CGROUPS}/cgroup.controllers has no memory controller: {' '.join(controllers)}"
        where, writable = CGROUPS, os.access(CGROUPS, os.W_OK)
    else:
        return f"no memory controller is mounted below {CGROUPS}"
    return "" if writable else f"{where} cannot be written"


class ContainerdThatRuns(Containerd):
    """A containerd that can run containers: it sees control groups, and its files lie as those of a node do."""

    def __init__(self, suite: str, namespace: Namespace, directory: Path) -> None:
        super().__init__(suite, namespace, directory)
        self.run_directory = directory / "run"
        self.run_directory.mkdir()
        text = self.configuration.read_text().replace(str(self.socket), str(self.run_directory / "containerd.sock"))
        self.socket = self.run_directory / "containerd.sock"
        # Beside each other, and nothing else there, as in /etc/containerd: a container sees what is mounted only.
        etc = directory / "etc"
        etc.mkdir()
        self.configuration.unlink()
        self.configuration = etc / "config.toml"
        self.configuration.write_text(text.replace(str(self.hosts), str(etc / "certs.d")))
        self.hosts = self.hosts.rename(etc / "certs.d")

    def start(self) -> None:
        """`ip netns exec` gives a process a new /sys, without control groups: mount them there again."""
        lines = ["set -e", f"mount -t tmpfs tmpfs {CGROUPS}"]
        for group in cgroups():
            options = f"-o {shlex.quote(group.options)}" if group.kind == "cgroup" else ""
            lines.append(f"mkdir -p {group.mount_point}")
            lines.append(f"mount -t {group.kind} {options} {group.kind} {group.mount_point}")
        words = [str(self._programs / "containerd"), "--config", str(self.configuration)]
        script = "\n".join([*lines, f"exec {shlex.join(words)}"])
        path = f"{self._programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        self._process = Process(["sh", "-c", script], self.log, self._namespace.name, {"PATH": path})

    def close(self) -> None:
        """End the containers and their shims, which would outlive containerd, then containerd; remove groups."""
        for task in self._tasks():
            with contextlib.suppress(CommandError):
                self.ctr("tasks", "delete", "--force", task)
        super().close()
        for directory in (CGROUPS / self._namespace.name, *CGROUPS.glob(f"*/{self._namespace.name}")):
            for group in sorted(directory.glob("**/"), reverse=True):
                group.rmdir()

    def _tasks(self) -> list[str]:
        try:
            return self.ctr("tasks", "list", "--quiet").split()
        except CommandError:
            return []  # containerd does not run


class Release:
    """One release of the chart in the cluster of a laboratory, rendered for each of its nodes."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._secrets: tuple[Object, ...] = ()

    def rendered(self, containerd: ContainerdThatRuns) -> Rendered:
        """With the default values but for where this node's containerd has its files, and the tests' ports.

        The generated secret of the first node is that of all: every rendering makes one.
        """
        values = {
            "ports": {"registry": REGISTRY_PORT, "router": ROUTER_PORT, "operations": OPERATIONS_PORT},
            "containerd": {
                "socket": str(containerd.socket),
                "contentPath": str(containerd.content),
                "registryConfigPath": str(containerd.hosts),
            },
        }
        found = self._chart.render(values)
        self._secrets = self._secrets or tuple(found.all("Secret"))
        return Rendered((*self._secrets, *(one for one in found.objects if one["kind"] != "Secret")))


class ImageNode(Node):
    """A node that runs the chart's containers from the image, as they are rendered."""

    def __init__(
        self, namespace: Namespace, containerd: ContainerdThatRuns, directory: Path, pods: RenderedPods
    ) -> None:
        super().__init__(namespace, containerd, directory, "")
        self.runs = containerd
        self.pods = pods
        self.group = ""  # of the container that was started last, below /sys/fs/cgroup
        self._count = 0

    def import_image(self) -> None:
        """Bring the image into containerd's store and unpack it."""
        self.runs.ctr("images", "import", str(image().path))

    def words(self, container: str = "peili", *arguments: str, program: Sequence[str] = ()) -> list[str]:
        """`ctr run` as the kubelet would run a container of the chart.

        With arguments, `peili` (or `program`) is run with these instead, as by `kubectl exec` in that container.
        """
        self._count += 1
        identity = f"peili-{self._count}"
        # The ctr of containerd 1.6 cannot be told a user: the image's is that of all but the clean-up's waiting.
        rights = self.pods.options(container, as_user=self.containerd.suite != "installed")
        if arguments or program:
            command_line = [*(program or ENTRY_POINT), *arguments]
        else:
            command_line = self.pods.command(container)
        self.group = f"{self.namespace.name}/{identity}"
        options = ["--rm", f"--cgroup=/{self.group}", f"--runc-root={self.runs.run_directory.parent}/runc"]
        options += [f"--fifo-dir={self.runs.run_directory.parent}/fifo", *rights]
        return self.runs.ctr_words("run", *options, image().name, identity, *command_line)

    def run(self, *arguments: str, container: str = "peili", program: Sequence[str] = ()) -> str:
        """Run a command in a container to its end and return what it printed; raise CommandError."""
        return command(*self.words(container, *arguments, program=program))

    def configure(self, *registries: str, options: Sequence[str] = ()) -> None:
        """The chart's init container."""
        assert not registries
        assert not options
        self.run(container="configure")

    def cleanup(self) -> None:
        """The chart's clean-up."""
        self.run(container="cleanup")

    def start_peili(self, *options: str) -> None:
        """The chart's container."""
        assert not options
        self._stopping = False
        self._peili = Process(self.words(), self.log)


def image_nodes(lab: Lab, chart: Chart, *suites: str) -> list[ImageNode]:
    """New nodes with running containerds that know the registries made so far and have the image."""
    made: list[ImageNode] = []
    release = Release(chart)
    for suite in suites:
        number = len(lab.nodes) + 1
        namespace = lab.network.node(number)
        directory = lab.directory / f"n{number}"
        containerd = ContainerdThatRuns(suite, namespace, directory)
        rendered = release.rendered(containerd)
        environment = {"POD_IP": namespace.address, "ZONE": ""}
        pods = RenderedPods(rendered, directory / "volumes", environment, CONFIGURED / namespace.name / "hosts")
        names = {one.name.partition(":")[0]: lab.upstream.address for one in lab.registries}
        # All find the first node.
        first = made[0].namespace if made else namespace
        namespace.set_hosts({**names, bootstrap_name(pods.arguments("peili")): first.address})
        for registry in lab.registries:
            containerd.mirror(registry.name, registry.url)
        node = ImageNode(namespace, containerd, directory, pods)
        lab.nodes.append(node)
        made.append(node)
        containerd.start()
    for node in made:
        node.containerd.wait_ready()
        node.import_image()
    return made


def bootstrap_name(arguments: Sequence[str]) -> str:
    """The name that `peili run` is to look up."""
    [name] = [one.partition("=dns:")[2] for one in arguments if one.startswith("--bootstrap=")]
    assert name, arguments
    return name


@dataclass(frozen=True, slots=True)
class Memory:
    """What a container uses, in bytes: of its process, and what its control group is charged for."""

    resident: int
    proportional: int
    charged: int
    most_charged: int
    limit: int

    def __str__(self) -> str:
        names = ("resident", "proportional", "charged", "most_charged", "limit")
        return ", ".join(f"{name} {getattr(self, name) / 1e6:.1f} MB" for name in names)


def memory(node: ImageNode) -> Memory:
    """The memory of the container that runs now (proc_pid_smaps_rollup(5), cgroups(7))."""
    first = CGROUPS / "memory" / node.group
    version_1 = first.is_dir()
    group = first if version_1 else CGROUPS / node.group
    [pid] = (group / "cgroup.procs").read_text().split()
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    process = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    names = ("usage_in_bytes", "max_usage_in_bytes", "limit_in_bytes") if version_1 else ("current", "peak", "max")
    charged, most, limit = (int((group / f"memory.{name}").read_text()) for name in names)
    return Memory(process["Rss"], process["Pss"], charged, most, limit)
