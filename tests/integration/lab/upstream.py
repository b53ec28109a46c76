"""Upstream registries: Debian's docker-registry (Distribution 2.8), what it holds and what it was asked."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.integration.lab.images import Blob, Image
from tests.integration.lab.network import Namespace
from tests.integration.lab.processes import Process
from tests.integration.lab.waiting import wait_until

_V2 = Path("docker/registry/v2")
_MARK = "/v2/peili-mark-"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the registry has answered. `sent` counts the bytes of the body."""

    method: str
    uri: str
    status: int
    sent: int

    @property
    def manifest(self) -> bool:
        """Whether it sent a manifest or an index."""
        return self.method == "GET" and "/manifests/" in self.uri and self.status < 300

    @property
    def blob(self) -> bool:
        """Whether it sent a blob, or a part of one."""
        return self.method == "GET" and "/blobs/" in self.uri and self.status < 300


class Registry:
    """One docker-registry in the upstream's namespace. `name` is what references call it."""

    def __init__(self, name: str, port: int, namespace: Namespace, directory: Path) -> None:
        self.name = name
        self.port = port
        self.url = f"http://{namespace.address}:{port}"
        self._namespace = namespace
        self._storage = directory / "storage"
        self._log = directory / "log"
        self._configuration = directory / "config.json"
        self._process: Process | None = None
        self._marks = 0
        self._storage.mkdir(parents=True)
        # JSON is YAML.
        configuration = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._storage)}},
            "http": {"addr": f":{port}", "secret": "the laboratory's"},
        }
        self._configuration.write_text(json.dumps(configuration))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = ["docker-registry", "serve", str(self._configuration)]
        self._process = process = Process(words, self._log, self._namespace.name)

        def answers() -> bool:
            process.check_running()
            return self._namespace.get("127.0.0.1", self.port, "/v2/").status == 200

        wait_until(answers, f"the registry {self.name} answers")

    def stop(self) -> None:
        """End it at once; does nothing where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._process is not None

    def add(self, image: Image, repository: str, tag: str) -> str:
        """Write an image into the storage, as pushing it would; return its full reference with the tag."""
        for blob in image.blobs:
            self._link_blob(blob)
            self._refer(repository, f"_layers/sha256/{_hex(blob)}/link", blob)
        for manifest in (*image.manifests, *(blob for blob in image.foreign if "manifest" in blob.media_type)):
            self._refer(repository, f"_manifests/revisions/sha256/{_hex(manifest)}/link", manifest)
        tags = f"_manifests/tags/{tag}"
        self._refer(repository, f"{tags}/index/sha256/{_hex(image.top)}/link", image.top)
        self._refer(repository, f"{tags}/current/link", image.top)
        return f"{self.name}/{repository}:{tag}"

    def _link_blob(self, blob: Blob) -> None:
        encoded = _hex(blob)
        path = self._storage / _V2 / "blobs/sha256" / encoded[:2] / encoded / "data"
        if path.exists():
            return
        path.parent.mkdir(parents=True)
        try:
            os.link(blob.path, path)
        except OSError:
            shutil.copyfile(blob.path, path)  # the pool is on another file system

    def _refer(self, repository: str, name: str, blob: Blob) -> None:
        path = self._storage / _V2 / "repositories" / repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(blob.digest)

    def requests(self) -> list[Request]:
        """All requests that it has answered so far, without the laboratory's own."""
        self._settle()
        found = (_request(line) for line in self._log.read_text(errors="replace").splitlines())
        return [request for request in found if request is not None and not request.uri.startswith(_MARK)]

    def _settle(self) -> None:
        """Wait until the log has caught up: with a request of our own that comes after all others."""
        if not self.running:
            return
        self._marks += 1
        mark = f"{_MARK}{self._marks}/manifests/none"
        self._namespace.get("127.0.0.1", self.port, mark)
        wait_until(lambda: mark in self._log.read_text(errors="replace"), "the registry's log catches up")


class Traffic:
    """What registries are asked and send from the making of this object on."""

    def __init__(self, *registries: Registry) -> None:
        self._registries = registries
        self._before = {registry.name: len(registry.requests()) for registry in registries}

    def requests(self) -> list[Request]:
        """The requests since this object was made."""
        return [
            request
            for registry in self._registries
            for request in registry.requests()[self._before[registry.name] :]
        ]

    def content(self) -> list[Request]:
        """Those that sent a manifest or a blob."""
        return [request for request in self.requests() if request.manifest or request.blob]

    def sent(self) -> int:
        """The bytes of all bodies."""
        return sum(request.sent for request in self.requests() if request.method == "GET")


def _hex(blob: Blob) -> str:
    return blob.digest.partition(":")[2]


def _request(line: str) -> Request | None:
    """A line of the log, where it tells of an answered request."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not str(record.get("msg", "")).startswith("response completed"):
        return None
    return Request(
        record["http.request.method"],
        record["http.request.uri"].split("?")[0],
        int(record["http.response.status"]),
        int(record.get("http.response.written", 0)),
    )
