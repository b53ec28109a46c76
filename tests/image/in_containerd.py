"""A node whose Peili runs from its image, by the node's containerd and runc, as the chart says."""

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

from tests.integration import install
from tests.integration.lab.containerd import Containerd
from tests.integration.lab.laboratory import Lab
from tests.integration.lab.network import Namespace
from tests.integration.lab.node import OPERATIONS_PORT, REGISTRY_PORT, ROUTER_PORT, Node
from tests.integration.lab.processes import CommandError, Process, command

MEMORY_LIMIT = 128 << 20  # bytes; the chart's limit
CGROUPS = Path("/sys/fs/cgroup")
# What `ctr run` grants where nothing is said (containerd's and Docker's defaults); the chart drops all of it.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip


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
    """A containerd that can run containers: it sees control groups; its socket has a directory of its own."""

    def __init__(self, suite: str, namespace: Namespace, directory: Path) -> None:
        super().__init__(suite, namespace, directory)
        self.run_directory = directory / "run"
        self.run_directory.mkdir()
        before, self.socket = self.socket, self.run_directory / "containerd.sock"
        configuration = directory / "config.toml"
        configuration.write_text(configuration.read_text().replace(str(before), str(self.socket)))

    def start(self) -> None:
        """`ip netns exec` gives a process a new /sys, without control groups: mount them there again."""
        lines = ["set -e", f"mount -t tmpfs tmpfs {CGROUPS}"]
        for group in cgroups():
            options = f"-o {shlex.quote(group.options)}" if group.kind == "cgroup" else ""
            lines.append(f"mkdir -p {group.mount_point}")
            lines.append(f"mount -t {group.kind} {options} {group.kind} {group.mount_point}")
        words = [str(self._programs / "containerd"), "--config", str(self._directory / "config.toml")]
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


class ImageNode(Node):
    """A node that runs Peili's commands from the image, with no more rights and mounts than each needs."""

    def __init__(
        self, namespace: Namespace, containerd: ContainerdThatRuns, directory: Path, bootstrap: str
    ) -> None:
        super().__init__(namespace, containerd, directory, bootstrap)
        self.runs = containerd
        self.bootstrap = bootstrap
        self.group = ""  # of the container that was started last, below /sys/fs/cgroup
        self._count = 0

    @property
    def of_containerd(self) -> list[str]:
        """The flags that say where this node's containerd is and what it reads."""
        return [
            f"--containerd-socket={self.containerd.socket}",
            f"--containerd-config-path={self.containerd.hosts}",
            f"--containerd-config-file={self.containerd.configuration}",
        ]

    def import_image(self) -> None:
        """Bring the image into containerd's store and unpack it."""
        self.runs.ctr("images", "import", str(image().path))

    def words(self, *arguments: str, writable: bool = False, program: Sequence[str] = ()) -> list[str]:
        """`ctr run` as the kubelet would run the chart's container; `writable` is for configure and cleanup."""
        self._count += 1
        identity = f"peili-{self._count}"
        hosts = "rw" if writable else "ro"
        mounts = [(self.runs.hosts, hosts)]
        if not writable:
            # The directory and not the socket: containerd makes a new socket when it starts again. That of its
            # configuration holds all others here, as /etc/containerd holds certs.d: it comes first.
            mounts.insert(0, (self.runs.configuration.parent, "ro"))
            mounts += [(self.runs.run_directory, "ro"), (self.runs.content, "ro")]
        options = ["--rm", "--read-only", "--net-host", "--seccomp", f"--memory-limit={MEMORY_LIMIT}"]
        self.group = f"{self.namespace.name}/{identity}"
        options += [f"--cgroup=/{self.group}", f"--runc-root={self.runs.run_directory.parent}/runc"]
        options += [f"--fifo-dir={self.runs.run_directory.parent}/fifo"]
        options += [f"--cap-drop=CAP_{name}" for name in CAPABILITIES]
        options += [f"--mount=type=bind,src={path},dst={path},options=rbind:{mode}" for path, mode in mounts]
        # Without a program, ctr would take the image's entry point and its arguments; with one, only that.
        command_line = [*program, *arguments] if program else ["/usr/bin/peili", *arguments]
        return self.runs.ctr_words("run", *options, image().name, identity, *command_line)

    def run(self, *arguments: str, writable: bool = False, program: Sequence[str] = ()) -> str:
        """Run a command in a container to its end and return what it printed; raise CommandError."""
        return command(*self.words(*arguments, writable=writable, program=program))

    def configure(self, *registries: str, options: Sequence[str] = ()) -> None:
        """As the chart's init container."""
        named = [f"--mirrored-registry={url}" for url in registries]
        path = f"--containerd-config-path={self.containerd.hosts}"
        target = f"--mirror-target=http://127.0.0.1:{REGISTRY_PORT}"
        self.run("configure", path, target, *named, *options, writable=True)

    def cleanup(self) -> None:
        """As the chart's clean-up."""
        self.run("cleanup", f"--containerd-config-path={self.containerd.hosts}", writable=True)

    def start_peili(self, *options: str) -> None:
        """`peili run` in a container."""
        self.options = [*options] or self.options
        arguments = [
            f"--registry-address=0.0.0.0:{REGISTRY_PORT}",
            f"--router-address=0.0.0.0:{ROUTER_PORT}",
            f"--operations-address=0.0.0.0:{OPERATIONS_PORT}",
            f"--advertise-address={self.namespace.address}",
            f"--bootstrap={self.bootstrap}",
            *self.of_containerd,
            "--log-level=debug",
        ]
        self._stopping = False
        self._peili = Process(self.words("run", *arguments, *self.options), self.log)


def image_nodes(lab: Lab, *suites: str) -> list[ImageNode]:
    """New nodes with running containerds that know the registries made so far and have the image."""
    made = []
    numbers = range(1, len(lab.nodes) + len(suites) + 3)
    bootstrap = "static:" + ",".join(f"{lab.network.address(number)}:{ROUTER_PORT}" for number in numbers)
    for suite in suites:
        number = len(lab.nodes) + 1
        namespace = lab.network.node(number)
        namespace.set_hosts({one.name.partition(":")[0]: lab.upstream.address for one in lab.registries})
        directory = lab.directory / f"n{number}"
        containerd = ContainerdThatRuns(suite, namespace, directory)
        for registry in lab.registries:
            containerd.mirror(registry.name, registry.url)
        node = ImageNode(namespace, containerd, directory, bootstrap)
        lab.nodes.append(node)
        made.append(node)
        containerd.start()
    for node in made:
        node.containerd.wait_ready()
        node.import_image()
    return made


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
