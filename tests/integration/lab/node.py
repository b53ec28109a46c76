"""A node: a network of its own, a real containerd, and one `peili run`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.integration.lab.containerd import Containerd
from tests.integration.lab.cri import Credentials, CriError
from tests.integration.lab.images import Blob, Image
from tests.integration.lab.network import Answer, Namespace
from tests.integration.lab.processes import Process, command
from tests.integration.lab.waiting import NotInTime, wait_until

REGISTRY_PORT = 5000
ROUTER_PORT = 5001
OPERATIONS_PORT = 9090
READY_TIMEOUT = 45.0  # seconds; readiness may wait 30 s for a peer
OFFER_TIMEOUT = 10.0  # seconds: "within seconds"
PEILI = Path(os.environ.get("PEILI_TEST_COMMAND", Path(sys.executable).with_name("peili")))
ACCEPT = {
    "Accept": ", ".join(
        [
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            "*/*",
        ]
    )
}


class Node:
    """One machine of the cluster."""

    def __init__(
        self, namespace: Namespace, containerd: Containerd, directory: Path, bootstrap: str, *, ipv6: bool = False
    ) -> None:
        self.namespace = namespace
        self.containerd = containerd
        self.description = f"node {namespace.number} with containerd {containerd.version}"
        self.log = directory / "peili.log"
        self.options: list[str] = []
        self.wrapper: list[str] = []  # a program before `peili run`, for example setpriv with fewer rights
        self.environment: dict[str, str] = {}  # for it, on top of ours
        self._ipv6 = ipv6
        self._bootstrap = bootstrap
        self._peili: Process | None = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<{self.description}>"

    @property
    def loopback(self) -> str:
        """Where programs on this node reach its Peili."""
        return "::1" if self._ipv6 else "127.0.0.1"

    # Peili

    def configure(self, *registries: str, options: Sequence[str] = ()) -> None:
        """`peili configure`: put this node's Peili in front of containerd's hosts."""
        named = [f"--mirrored-registry={url}" for url in registries]
        # A name for IPv6: containerd 1.6 and 1.7 cannot read a hosts.toml with brackets in a table's name.
        target = f"http://{'localhost' if self._ipv6 else '127.0.0.1'}:{REGISTRY_PORT}"
        path = f"--containerd-config-path={self.containerd.hosts}"
        command(str(PEILI), "configure", path, f"--mirror-target={target}", *named, *options)

    def cleanup(self) -> None:
        """`peili cleanup`: put containerd's hosts back."""
        command(str(PEILI), "cleanup", f"--containerd-config-path={self.containerd.hosts}")

    def check(self) -> dict[str, str]:
        """`peili check`: the outcome of each thing that it looks at, the worst where it looks at several."""
        paths = [
            f"--containerd-socket={self.containerd.socket}",
            f"--containerd-config-path={self.containerd.hosts}",
            f"--containerd-config-file={self.containerd.configuration}",
        ]
        inside = ["ip", "netns", "exec", self.namespace.name]
        # Its status is 1 where something fails, which is an answer here.
        said = command("sh", "-c", '"$@" || test $? -eq 1', "sh", *inside, str(PEILI), "check", "--json", *paths)
        outcomes: dict[str, str] = {}
        for finding in json.loads(said):
            before = outcomes.get(finding["name"], "ok")
            outcomes[finding["name"]] = max(before, finding["level"], key=("ok", "warn", "fail").index)
        return outcomes

    def start_peili(self, *options: str) -> None:
        """Start `peili run`; wait_peili waits for it. The options are kept for later starts."""
        self.options = [*options] or self.options
        every = "[::]" if self._ipv6 else "0.0.0.0"
        words = [
            f"--registry-address={every}:{REGISTRY_PORT}",
            f"--router-address={every}:{ROUTER_PORT}",
            f"--operations-address={every}:{OPERATIONS_PORT}",
            f"--advertise-address={self.namespace.address6 if self._ipv6 else self.namespace.address}",
            f"--bootstrap={self._bootstrap}",
            "--store=containerd",
            f"--containerd-socket={self.containerd.socket}",
            "--log-level=debug",
        ]
        self._stopping = False
        whole = [*self.wrapper, str(PEILI), "run", *words, *self.options]
        self._peili = Process(whole, self.log, self.namespace.name, self.environment)

    @property
    def peili(self) -> Process:
        """The process."""
        assert self._peili is not None, f"Peili does not run on {self!r}"
        return self._peili

    def ready(self) -> Answer:
        """What /readyz says; raise OSError where nothing answers."""
        return self.namespace.get(self.loopback, OPERATIONS_PORT, "/readyz")

    def metrics(self) -> str:
        """What /metrics says."""
        return self.namespace.get(self.loopback, OPERATIONS_PORT, "/metrics").body.decode()

    def wait_peili(self) -> None:
        """Wait until /readyz answers 200."""

        def answers() -> bool:
            self.peili.check_running()
            answer = self.ready()
            assert answer.status == 200, answer
            return True

        try:
            wait_until(answers, f"Peili ready on {self!r}", READY_TIMEOUT)
        except NotInTime as error:
            error.add_note(self.peili.log_end())
            raise

    def begin_stop(self) -> None:
        """SIGTERM; stop_peili waits for the end. A second one would end transfers at once."""
        if not self._stopping:
            self._stopping = True
            self.peili.send(signal.SIGTERM)

    def stop_peili(self) -> int:
        """SIGTERM, and wait for the end; return the exit status."""
        self.begin_stop()
        status = self.peili.wait()
        self._peili = None
        return status

    def kill_peili(self) -> None:
        """SIGKILL."""
        self.peili.kill()
        self._peili = None

    def freeze_peili(self, yes: bool) -> None:
        """SIGSTOP or SIGCONT."""
        self.peili.send(signal.SIGSTOP if yes else signal.SIGCONT)

    # What Peili answers

    def ask(
        self,
        path: str,
        *,
        ns: str = "",
        method: str = "GET",
        local: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Ask this node's Peili as containerd does; `local` asks as a peer does, for what the node itself holds."""
        fields = {**ACCEPT, **({"X-Spegel-Mirrored": "true"} if local else {}), **(headers or {})}
        query = f"?ns={ns}" if ns else ""
        return self.namespace.get(self.loopback, REGISTRY_PORT, f"/v2/{path}{query}", method=method, headers=fields)

    def finds(self, reference: str, *, local: bool = False) -> bool:
        """Whether a HEAD for an image by tag or digest is answered 200 by this node's Peili."""
        registry, path = manifest_path(reference)
        status = self.ask(path, ns=registry, method="HEAD", local=local).status
        assert status in (200, 404), status
        return status == 200

    def finds_blob(self, reference: str, blob: Blob, *, local: bool = False) -> bool:
        """Whether a HEAD for a blob of the image's repository is answered 200."""
        registry, path = manifest_path(reference)
        repository = path.partition("/manifests/")[0]
        status = self.ask(f"{repository}/blobs/{blob.digest}", ns=registry, method="HEAD", local=local).status
        assert status in (200, 404), status
        return status == 200

    def errors(self) -> list[str]:
        """What Peili says about itself that must not be: errors and tracebacks."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if '"level": "error"' in line or "Traceback" in line]

    def attempts(self, name: str) -> int:
        """How many peers the last request for a tag or digest tried, by the log; raise NotInTime without one."""

        def last() -> dict[str, object] | None:
            for line in reversed(self.log.read_text(errors="replace").splitlines()):
                if f'"{name}"' in line and '"event": "request"' in line:
                    return as_json(line)
            return None

        found = wait_until(last, f"a request for {name} in the log of {self!r}")
        assert found is not None
        return int(str(found["attempts"]))

    # Images

    def pull(self, reference: str, timeout: float = 120.0, credentials: Credentials | None = None) -> str:
        """Pull as a kubelet does."""
        try:
            return self.containerd.cri.pull(reference, credentials, timeout)
        except CriError as error:
            log = self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""
            error.add_note(
                f"{self!r}\ncontainerd: {self.containerd.log.read_text(errors='replace')[-3000:]}\n{log}"
            )
            raise

    def holds(self, image: Image) -> bool:
        """Whether the content store has all that a pull brings, complete."""
        files = [(self.containerd.blob(blob.digest), blob.size) for blob in image.pulled]
        return all(path.exists() and path.stat().st_size == size for path, size in files)

    def close(self) -> None:
        """End everything that runs here."""
        if self._peili is not None:
            self._peili.kill()
            self._peili = None
        self.containerd.close()


def manifest_path(reference: str) -> tuple[str, str]:
    """A full reference as the registry for `ns` and the path below /v2/."""
    registry, _, rest = reference.partition("/")
    if "@" in rest:
        repository, _, name = rest.partition("@")
        repository = repository.partition(":")[0]
    else:
        repository, _, name = rest.rpartition(":")
    return registry, f"{repository}/manifests/{name}"


def by_digest(reference: str, image: Image) -> str:
    """The same image by digest."""
    return f"{reference.rpartition(':')[0]}@{image.top.digest}"


def as_json(text: str) -> dict[str, object]:
    """A JSON object."""
    value = json.loads(text)
    assert isinstance(value, dict)
    return value
