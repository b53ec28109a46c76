"""A real containerd for one test, with everything of its own, and a registry on loopback that it can pull from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pytest
import trio

from peili.containerd.client import Client
from peili.containerd.cri import Cri
from peili.containerd.errors import ContainerdError
from peili.demo.images import CONTAINERD_NAME, Image, Layout

READY_SECONDS = 60.0
REGISTRY = "registry.test"
_CACHE = Path(os.environ.get("PEILI_TEST_CACHE", "/var/cache/peili-test"))
_DISABLED = (
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "zfs", "devmapper", "blockfile", "erofs")),
)
_CRI = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime")


def binaries() -> list[Path]:
    """The containerds to test with: the one that PEILI_TEST_CONTAINERD names, else all that are here."""
    named = os.environ.get("PEILI_TEST_CONTAINERD")
    if named:
        return [Path(named)]
    known = [Path("/usr/bin"), *(_CACHE / suite / "usr" / "bin" for suite in ("trixie", "sid"))]
    return [directory / "containerd" for directory in known if (directory / "containerd").exists()] or [
        Path("/usr/bin/containerd")
    ]


def binary_id(binary: Path) -> str:
    """A short name for a test's id."""
    return binary.parts[-4] if binary.is_relative_to(_CACHE) else "installed"


def require(binary: Path) -> None:
    """Skip with a reason where this cannot run; fail instead where PEILI_REQUIRE_CONTAINERD is 1."""
    if os.geteuid() != 0:
        reason = "a real containerd needs root"
    elif not binary.exists() or shutil.which("setpriv") is None:
        reason = f"{binary} or setpriv is missing"
    else:
        return
    if os.environ.get("PEILI_REQUIRE_CONTAINERD") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class RealContainerd:
    """A containerd under `directory`; `start` and `stop` may alternate."""

    def __init__(self, binary: Path, directory: Path, *, cri: bool = True) -> None:
        self.binary = binary
        self.directory = directory
        self.socket = directory / "c.sock"
        self.content = directory / "root" / "io.containerd.content.v1.content"
        self.hosts = directory / "certs.d"
        self._process: subprocess.Popen[bytes] | None = None
        self.hosts.mkdir(parents=True)
        (directory / "config.toml").write_text(self._config(cri))

    def start(self) -> None:
        """Start the process; `wait_ready` waits for its CRI."""
        path = f"{self.binary.parent}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._process = _spawn(
            ["setpriv", "--pdeathsig", "KILL", str(self.binary), "--config", str(self.directory / "config.toml")],
            self.directory / "log",
            {**os.environ, "PATH": path},
        )

    async def wait_ready(self) -> None:
        """Wait until the CRI answers."""
        with Cri(self.socket) as cri:
            await self._wait(cri.images)

    async def wait_answers(self) -> None:
        """Wait until containerd itself answers."""
        with Client(self.socket, "k8s.io") as client:
            await self._wait(client.images)

    async def _wait(self, question: Callable[[], Awaitable[object]]) -> None:
        with trio.fail_after(READY_SECONDS):
            while True:
                assert self._process is not None
                assert self._process.poll() is None, (self.directory / "log").read_text()[-2000:]
                try:
                    await question()
                    return
                except ContainerdError:
                    await trio.sleep(0.05)

    def stop(self) -> None:
        """End the process and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ctr(self, *words: str, namespace: str = "k8s.io", stdin: bytes = b"", check: bool = True) -> str:
        """Run this version's ctr and return what it printed."""
        ctr = [str(self.binary.with_name("ctr")), "--address", str(self.socket), "-n", namespace, *words]
        done = subprocess.run(ctr, input=stdin, capture_output=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr.decode()[-2000:]
        return done.stdout.decode()

    def import_image(self, name: str, image: Image, namespace: str = "k8s.io") -> None:
        """Import an image through ctr."""
        directory = self.directory / f"layout-{time.monotonic_ns()}"
        layout = Layout(directory)
        layout.add(name, image, annotation=CONTAINERD_NAME)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(directory, arcname=".")
        words = ("images", "import", "--all-platforms", "--no-unpack", "-")
        self.ctr(*words, namespace=namespace, stdin=buffer.getvalue())
        # ctr keeps the layout's index.json as a blob until containerd collects garbage.
        index = hashlib.sha256((directory / "index.json").read_bytes()).hexdigest()
        self.ctr("content", "rm", f"sha256:{index}", namespace=namespace, check=False)

    def path(self, digest: object) -> Path:
        """Where a blob lies."""
        return self.content / "blobs" / str(digest).replace(":", "/")

    def use_registry(self, registry: Registry) -> None:
        """Let images of `registry.test` come from there."""
        directory = self.hosts / REGISTRY
        directory.mkdir(exist_ok=True)
        (directory / "hosts.toml").write_text(
            f'server = "{registry.url}"\n\n[host."{registry.url}"]\n  capabilities = ["pull", "resolve"]\n'
        )

    def _config(self, cri: bool) -> str:
        directory = self.directory
        disabled = [*_DISABLED, *(() if cri else _CRI)]
        common = {"root": f"{directory}/root", "state": f"{directory}/state", "disabled_plugins": disabled}
        lines = ["version = 2", *(f"{key} = {json.dumps(value)}" for key, value in common.items())]
        return "\n".join(
            [
                *lines,
                "[grpc]",
                f'address = "{self.socket}"',
                "[ttrpc]",
                f'address = "{self.socket}.ttrpc"',
                '[plugins."io.containerd.internal.v1.opt"]',
                f'path = "{directory}/opt"',
                '[plugins."io.containerd.grpc.v1.cri"]',
                "stream_server_port = '0'",
                '[plugins."io.containerd.grpc.v1.cri".registry]',
                f'config_path = "{self.hosts}"',
                "",
            ]
        )


def _spawn(words: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    out: BinaryIO
    with log.open("ab") as out:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(environment))


@contextmanager
def running(binary: Path, directory: Path, *, cri: bool = True) -> Iterator[RealContainerd]:
    """A started containerd; its end is waited for. Without the CRI plugin it starts sooner and adds no names."""
    require(binary)
    directory.mkdir(parents=True, exist_ok=True)
    containerd = RealContainerd(binary, directory, cri=cri)
    containerd.start()
    try:
        yield containerd
    finally:
        containerd.stop()


class Tap:
    """How much of one blob a Registry gives out: up to `allow`ed bytes, then it holds the connection."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._allowed = 0
        self._cut = False

    def allow(self, count: int) -> None:
        """Let the first `count` bytes of the blob pass."""
        with self._changed:
            self._allowed = max(self._allowed, count)
            self._changed.notify_all()

    def cut(self) -> None:
        """Break the connection, and know the blob no more."""
        with self._changed:
            self._cut = True
            self._changed.notify_all()

    @property
    def is_cut(self) -> bool:
        return self._cut

    def pass_through(self, content: bytes, write: Callable[[bytes], object]) -> None:
        """Give out the content as it is allowed, until it is complete or cut."""
        sent = 0
        while sent < len(content):
            end = min(self._wait_for_more_than(sent), len(content))
            write(content[sent:end])
            sent = end

    def _wait_for_more_than(self, count: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._cut or self._allowed > count)
            if self._cut:
                raise ConnectionAbortedError("cut")
            return self._allowed


class _QuietServer(ThreadingHTTPServer):
    """Clients that go away are part of the tests."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Registry:
    """Images by `repository:tag`, over plain HTTP as far as a pull needs it. `taps`: digests that are held back."""

    def __init__(self) -> None:
        self.taps: dict[str, Tap] = {}
        self.blobs: dict[str, tuple[bytes, str]] = {}
        self.tags: dict[str, str] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0].removeprefix("/v2/")
                repository, _, name = path.replace("/manifests/", "\0").replace("/blobs/", "\0").partition("\0")
                digest = registry.tags.get(f"{repository}:{name}", name)
                content, media_type = registry.blobs.get(digest, (b"", ""))
                tap = registry.taps.get(digest)
                if tap is not None and tap.is_cut:
                    content, media_type = b"", ""
                self.send_response(200 if media_type else 404)
                self.send_header("Content-Length", str(len(content)))
                if media_type:
                    self.send_header("Content-Type", media_type)
                    self.send_header("Docker-Content-Digest", digest)
                self.end_headers()
                if self.command != "GET":
                    return
                if tap is not None:
                    tap.pass_through(content, self.wfile.write)
                else:
                    self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def add(self, name: str, image: Image) -> None:
        """Offer an image as `registry.test/<name>`."""
        for digest, content in image.blobs.items():
            self.blobs[str(digest)] = (content, "application/octet-stream")
        for part in (image, *image.parts):
            described = part.descriptor
            self.blobs[str(described.digest)] = (image.blobs[described.digest], described.media_type)
        self.tags[name] = str(image.descriptor.digest)

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for tap in self.taps.values():
            tap.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
