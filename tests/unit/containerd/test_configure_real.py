"""Real containerds, through the CRI as the kubelet asks: do they take what `peili configure` writes?"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from peili.containerd.configure import ConfigureSettings, cleanup, configure
from peili.containerd.cri import Cri
from peili.containerd.errors import ContainerdError
from tests.fakes.containerd_process import RealContainerd, binaries, binary_id, running

pytestmark = pytest.mark.containerd
BASIC = "Basic dXNlcjpwYXNz"


class Recorder:
    """A registry that has nothing and remembers who was asked for what."""

    def __init__(self, asked: list[tuple[str, str, str | None]], name: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                asked.append((name, self.path, self.headers.get("Authorization")))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Lab:
    """A containerd and four registries."""

    def __init__(self, containerd: RealContainerd, stack: ExitStack) -> None:
        self.containerd = containerd
        self.asked: list[tuple[str, str, str | None]] = []
        self.ours, self.further, self.cache, self.upstream = (
            stack.enter_context(Recorder(self.asked, name)) for name in ("ours", "further", "cache", "upstream")
        )

    def put(self, directory: str, text: str) -> None:
        (self.containerd.hosts / directory).mkdir()
        (self.containerd.hosts / directory / "hosts.toml").write_text(text)

    def configure(self, *registries: str, targets: tuple[str, ...] = (), basic_auth: str | None = None) -> None:
        settings = ConfigureSettings(
            self.containerd.hosts, targets or (self.ours.url,), registries, basic_auth=basic_auth
        )
        assert configure(settings).problems == ()

    async def asks(self, registry: str) -> list[str]:
        """Who is asked when an image of this registry is pulled, in order."""
        self.asked.clear()
        with Cri(self.containerd.socket) as cri, pytest.raises(ContainerdError):
            await cri.pull(f"{registry}/library/thing:1", timeout=30)
        return list(dict.fromkeys(name for name, _, _ in self.asked))


@pytest.fixture(params=binaries(), ids=binary_id)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    with ExitStack() as stack:
        containerd = stack.enter_context(running(request.param, tmp_path / "containerd"))
        await containerd.wait_ready()
        yield Lab(containerd, stack)


async def test_hosts_are_asked_in_our_order(lab: Lab) -> None:
    registry = lab.upstream.host
    # By name: ours, the further mirror, the upstream registry; each with the registry's name.
    lab.configure(lab.upstream.url, targets=(lab.ours.url, lab.further.url))
    assert await lab.asks(registry) == ["ours", "further", "upstream"]
    named = registry.replace(":", "%3A")
    assert lab.asked[0] == ("ours", f"/v2/library/thing/manifests/1?ns={named}", None)
    # With credentials they are sent without being asked for, and not to the upstream registry.
    lab.configure(lab.upstream.url, basic_auth="user:pass")
    assert await lab.asks(registry) == ["ours", "upstream"]
    assert {name: header for name, _, header in lab.asked} == {"ours": BASIC, "upstream": None}
    cleanup(lab.containerd.hosts)
    assert list(lab.containerd.hosts.iterdir()) == []


@pytest.mark.parametrize(
    "odd",
    [
        '[host."{0}"]\ncapabilities = ["pull", "resolve"]\n',
        'host."{0}".capabilities = ["pull", "resolve"]\n',
        'host = {{ "{0}" = {{ capabilities = ["pull", "resolve"] }} }}\n',
        '[host]\n"{0}" = {{ capabilities = ["pull", "resolve"] }}\n',
    ],
)
async def test_ours_is_first_however_the_file_was_written(lab: Lab, odd: str) -> None:
    registry = lab.upstream.host
    lab.put(registry, f'server = "{lab.upstream.url}"\n' + odd.format(lab.cache.url))
    lab.configure()  # `_default`, which that directory hides
    assert await lab.asks(registry) == ["ours", "cache", "upstream"]
    cleanup(lab.containerd.hosts)
    assert (await lab.asks(registry))[-1] == "upstream"


async def test_every_registry_and_a_new_directory_keep_what_the_default_said(lab: Lab) -> None:
    lab.put("_default", f'server = "{lab.upstream.url}"\n[host."{lab.cache.url}"]\n')
    lab.configure()
    assert await lab.asks("registry.test:5000") == ["ours", "cache", "upstream"]
    lab.configure("http://registry.test:5000")
    assert await lab.asks("registry.test:5000") == ["ours", "cache", "upstream"]
    assert await lab.asks("other.test") == ["cache", "upstream"]
