"""A real containerd with everything of its own: root, state, socket, configuration."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

from tests.integration.install import SUITES, containerd_of, version
from tests.integration.lab.cri import CriError, ImageService
from tests.integration.lab.network import Namespace
from tests.integration.lab.processes import Process, command
from tests.integration.lab.waiting import wait_until

VERSIONS = ("installed", *SUITES)
NAMESPACE = "k8s.io"
READY_TIMEOUT = 30.0  # seconds
_DISABLED = ("nri.v1.nri", "internal.v1.tracing", "tracing.processor.v1.otlp")
_SNAPSHOTTERS = ("btrfs", "zfs", "devmapper", "blockfile", "erofs", "native")


class Containerd:
    """A containerd. Directories stay over a restart; `close` ends it for good."""

    def __init__(self, suite: str, namespace: Namespace, directory: Path, *, discard_layers: bool = False) -> None:
        self.suite = suite
        self.version = version(suite)
        self.socket = directory / "c.sock"
        self.root = directory / "root"
        self.hosts = directory / "certs.d"  # the CRI plugin's registry config_path
        self.log = directory / "containerd.log"
        self.configuration = directory / "config.toml"
        self._directory = directory
        self._programs = containerd_of(suite)
        self._namespace = namespace
        self._process: Process | None = None
        self._cri: ImageService | None = None
        self.hosts.mkdir(parents=True)
        self.configuration.write_text(self._configuration(discard_layers))

    @property
    def content(self) -> Path:
        """The directory of the content store."""
        return self.root / "io.containerd.content.v1.content"

    @property
    def cri(self) -> ImageService:
        """The CRI's image service, while containerd runs."""
        assert self._cri is not None, "containerd does not run"
        return self._cri

    def start(self) -> None:
        """Start the process; wait_ready waits for it."""
        path = f"{self._programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        words = [str(self._programs / "containerd"), "--config", str(self.configuration)]
        self._process = Process(words, self.log, self._namespace.name, {"PATH": path})

    def wait_ready(self) -> None:
        """Wait until the image service answers."""
        process = self._process
        assert process is not None

        def appears() -> bool:
            process.check_running()
            return self.socket.exists()

        wait_until(appears, "containerd's socket", READY_TIMEOUT)
        self._cri = service = ImageService(self.socket)

        def answers() -> bool:
            process.check_running()
            try:
                service.images()
            except CriError as error:
                # Between the socket and the plugin's registration the service is unknown, then not initialized.
                if error.code in ("UNIMPLEMENTED", "UNAVAILABLE") or "not initialized yet" in error.details:
                    return False
                raise
            return True

        wait_until(answers, "containerd's image service", READY_TIMEOUT)

    def stop(self) -> None:
        """SIGTERM, as systemd does; does nothing where it does not run."""
        if self._cri is not None:
            self._cri.close()
            self._cri = None
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def restart(self) -> None:
        """Stop, start and wait."""
        self.stop()
        self.start()
        self.wait_ready()

    def freeze(self, yes: bool) -> None:
        """SIGSTOP or SIGCONT."""
        assert self._process is not None, "containerd does not run"
        self._process.send(signal.SIGSTOP if yes else signal.SIGCONT)

    def close(self) -> None:
        """End it whatever state it is in."""
        if self._cri is not None:
            self._cri.close()
        if self._process is not None:
            self._process.kill()

    def ctr(self, *words: str, timeout: float = 120.0) -> str:
        """Run this version's own ctr, in the CRI's namespace of containerd and in this node's network."""
        return command(*self.ctr_words(*words), timeout=timeout)

    def ctr_words(self, *words: str) -> list[str]:
        """The command line for that."""
        ctr = [str(self._programs / "ctr"), "--address", str(self.socket), "--namespace", NAMESPACE]
        return ["ip", "netns", "exec", self._namespace.name, *ctr, *words]

    def blob(self, digest: str) -> Path:
        """The file of a blob, whether it is there or not."""
        return self.content / "blobs" / digest.replace(":", "/")

    def has_blob(self, digest: str) -> bool:
        """Whether the content store has the file."""
        return self.blob(digest).exists()

    def mirror(self, registry: str, url: str, *, hosts: dict[str, str] | None = None) -> Path:
        """Write a hosts.toml: `url` is the registry's own server, `hosts` come first, URL to capabilities."""
        lines = [f"server = {json.dumps(url)}"]
        for host, capabilities in {**(hosts or {}), url: '["pull", "resolve"]'}.items():
            # containerd 1.6 takes no notice of a file without a [host] table.
            lines += ["", f"[host.{json.dumps(host)}]", f"  capabilities = {capabilities}"]
        path = self.hosts / registry / "hosts.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]))
        return path

    def forget_images(self) -> None:
        """Remove every image through the CRI, and wait until garbage collection has emptied the content store."""
        for image in self.cri.images():
            self.cri.remove(image.identity)
        blobs = self.content / "blobs/sha256"
        wait_until(lambda: not list(blobs.glob("*")), "garbage collection", READY_TIMEOUT)

    def _configuration(self, discard_layers: bool) -> str:
        new = int(re.sub(r"^v", "", self.version).split(".")[0]) >= 2
        images = "io.containerd.cri.v1.images" if new else "io.containerd.grpc.v1.cri"
        snapshots = [f"io.containerd.snapshotter.v1.{name}" for name in _SNAPSHOTTERS]
        disabled = [*(f"io.containerd.{name}" for name in _DISABLED), *snapshots]
        unpack = f"[plugins.{json.dumps(images)}{'' if new else '.containerd'}]"
        return "\n".join(
            [
                f"version = {3 if new else 2}",
                f"root = {json.dumps(str(self.root))}",
                f"state = {json.dumps(str(self._directory / 'state'))}",
                f"disabled_plugins = {json.dumps(disabled)}",
                "[grpc]",
                f"  address = {json.dumps(str(self.socket))}",
                unpack,
                f"  discard_unpacked_layers = {json.dumps(discard_layers)}",
                f"[plugins.{json.dumps(images)}.registry]",
                f"  config_path = {json.dumps(str(self.hosts))}",
                "",
            ]
        )

    def remove_files(self) -> None:
        """Give the space back."""
        shutil.rmtree(self._directory, ignore_errors=True)
