from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import trio

from peili.containerd.check import CheckSettings, check, collect, content_fact, judge_answer
from peili.containerd.configure import ConfigureSettings, configure
from peili.containerd.findings import Level, State
from peili.containerd.plugin_settings import (
    CRI_PLUGIN,
    IMAGES_PLUGIN,
    InvalidContainerdConfig,
    PluginSettings,
    read_plugin_settings,
)
from peili.containerd.registry_fact import registry_from_cri
from peili.routing.kademlia import KademliaRouter, KademliaSettings
from tests.fakes import containerd as fakes
from tests.fakes.containerd_process import binaries, binary_id, running
from tests.fakes.routers import port_of

OURS = "http://127.0.0.1:5000"
MAIN = Path("/etc/containerd/config.toml")


def read(files: dict[str, str], major: int | None = 2) -> PluginSettings:
    def content(path: Path) -> bytes:
        try:
            return files[str(path)].encode()
        except KeyError as error:
            raise FileNotFoundError(2, "no such file", str(path)) from error

    def expand(pattern: str) -> list[str]:
        return sorted(path for path in files if Path(path).match(pattern))

    return read_plugin_settings(MAIN, content, expand, major)


def test_version_2_of_the_file() -> None:
    text = (
        f'version = 2\n[plugins."{CRI_PLUGIN}".registry]\nconfig_path = "/c"\n'
        f'[plugins."{CRI_PLUGIN}".containerd]\ndiscard_unpacked_layers = true\n'
    )
    for major in (1, 2, None):
        found = read({str(MAIN): text}, major)
        assert (found.section, found.config_path, found.discard_unpacked_layers) == (CRI_PLUGIN, "/c", True)


def test_version_3_of_the_file() -> None:
    text = (
        f'version = 3\n[plugins."{IMAGES_PLUGIN}"]\ndiscard_unpacked_layers = false\n'
        f'[plugins."{IMAGES_PLUGIN}".registry]\nconfig_path = "/c"\n'
    )
    found = read({str(MAIN): text})
    assert (found.section, found.config_path, found.discard_unpacked_layers) == (IMAGES_PLUGIN, "/c", False)
    assert read({str(MAIN): text}, 1).config_path is None  # containerd 1 knows no such section


def test_nothing_said() -> None:
    found = read({str(MAIN): ""})
    assert (found.version, found.config_path, found.discard_unpacked_layers, found.mirrors) == (
        1,
        None,
        None,
        False,
    )


def test_old_tables_are_seen() -> None:
    text = f'version = 2\n[plugins."{CRI_PLUGIN}".registry.mirrors."docker.io"]\nendpoint = ["https://m"]\n'
    assert read({str(MAIN): text}).mirrors


def test_imports_come_later_and_merge_by_version() -> None:
    files = {
        str(MAIN): f'version = 2\nimports = ["conf.d/*.toml", "/gone.toml"]\n[plugins."{CRI_PLUGIN}".registry]\n'
        'config_path = "/main"\n',
        "/etc/containerd/conf.d/a.toml": f'version = 2\nimports = ["{MAIN}"]\n'
        f'[plugins."{CRI_PLUGIN}".containerd]\ndiscard_unpacked_layers = true\n',
        "/etc/containerd/conf.d/b.txt": "[[",
    }
    merged = read(files, 2)
    assert (merged.config_path, merged.discard_unpacked_layers) == ("/main", True)
    assert merged.unread == ("/gone.toml",)
    assert merged.files == (str(MAIN), "/etc/containerd/conf.d/a.toml")
    replaced = read(files, 1)
    assert (replaced.config_path, replaced.discard_unpacked_layers) == (None, True)


@pytest.mark.parametrize("text", ["[[", "a = 1\na = 2", "\0", "x = " + "[" * 5000])
def test_a_broken_config_names_itself(text: str) -> None:
    with pytest.raises(InvalidContainerdConfig, match=r"config\.toml"):
        read({str(MAIN): text})


@pytest.mark.parametrize(
    "text", ["plugins = 1", 'imports = "x"', "version = true", 'plugins."cri" = []', "imports = [1]"]
)
def test_odd_types_are_as_if_nothing_were_said(text: str) -> None:
    assert read({str(MAIN): text}).config_path is None


def test_the_content_directory(tmp_path: Path) -> None:
    path = tmp_path / "root/io.containerd.content.v1.content"
    assert content_fact(None).state is State.UNKNOWN
    assert content_fact(path).state is State.MISSING
    (tmp_path / "root/io.containerd.metadata.v1.bolt").mkdir(parents=True)
    assert content_fact(path).state is State.GOOD
    path.mkdir()
    assert content_fact(path).state is State.GOOD
    (path / "else").touch()
    assert content_fact(path).state is State.OTHER
    (path / "blobs").mkdir()
    assert content_fact(path).state is State.GOOD
    assert content_fact(path / "else").state is State.OTHER


def test_what_the_cri_tells() -> None:
    told = {
        "registry": {"configPath": "/c", "mirrors": None, "configs": {}},
        "containerd": {"discardUnpackedLayers": True},
    }
    fact = registry_from_cri(told, "f")
    assert fact is not None
    assert (fact.config_path, fact.discard_unpacked_layers, fact.mirrors, fact.file) == ("/c", True, False, "f")
    assert registry_from_cri({}, "f") is None
    assert registry_from_cri({"registry": []}, "f") is None


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (b"HTTP/1.1 200 OK\r\n", State.GOOD),
        (b"HTTP/1.0 403 Forbidden\r\n", State.GOOD),
        (b"HTTP/1.1 404 Not Found\r\n", State.OTHER),
        (b"SSH-2.0", State.OTHER),
        (b"", State.OTHER),
    ],
)
def test_answers_of_a_port(answer: bytes, state: State) -> None:
    assert judge_answer("a:1", "/v2/", answer, frozenset({200, 403})).state is state


async def test_a_node_without_anything_has_only_findings(tmp_path: Path) -> None:
    settings = CheckSettings(
        tmp_path / "c.sock",
        tmp_path / "certs.d",
        tmp_path / "config.toml",
        registry_address="127.0.0.1:1",
        operations_address="nonsense",
    )
    found = {finding.name: finding for finding in await check(settings)}
    assert found["socket"].level is Level.FAIL
    assert "c.sock" in found["socket"].what
    assert found["config_path"].level is Level.WARN
    assert found["registry port"].level is Level.OK
    assert "free" in found["registry port"].what
    assert found["operations port"].level is Level.FAIL


@pytest.mark.parametrize(("namespace", "level"), [("k8s.io", Level.OK), ("k8s.oi", Level.WARN)])
async def test_the_namespace_is_looked_for(tmp_path: Path, namespace: str, level: Level) -> None:
    with fakes.running(tmp_path) as fake:
        settings = CheckSettings(fake.socket, tmp_path / "certs.d", tmp_path / "config.toml", namespace)
        found = {finding.name: finding for finding in await check(settings)}
        assert found["namespace"].level is level
        assert "k8s.io" in found["namespace"].what
        fake.errors[fakes.NAMESPACES] = grpc.StatusCode.PERMISSION_DENIED
        assert "namespace" not in {finding.name for finding in await check(settings)}


async def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 503 Later\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        settings = CheckSettings(
            tmp_path / "c.sock", tmp_path, registry_address=address, operations_address=address
        )
        facts = await collect(settings)
        nursery.cancel_scope.cancel()
    assert facts.registry_port is not None
    assert facts.operations_port is not None
    assert facts.registry_port.state is State.OTHER
    assert facts.operations_port.state is State.GOOD
    assert "not ready" in facts.operations_port.detail


async def test_the_routers_port(tmp_path: Path) -> None:
    async def state_at(port: int) -> State:
        address = f"127.0.0.1:{port}"
        facts = await collect(CheckSettings(tmp_path / "c.sock", tmp_path, router_address=address))
        assert facts.router_port is not None
        return facts.router_port.state

    async def parrot(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH\r\n")
        await stream.receive_some(4096)

    async with trio.open_nursery() as nursery:
        router = KademliaRouter(KademliaSettings("127.0.0.1", 0))
        await nursery.start(router.run)
        assert await state_at(port_of(router)) is State.GOOD
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, parrot, [listener])
        assert await state_at(listener.socket.getsockname()[1]) is State.OTHER
        nursery.cancel_scope.cancel()
    assert await state_at(1) is State.MISSING


@pytest.mark.containerd
@pytest.mark.parametrize("binary", binaries(), ids=binary_id)
async def test_a_real_node(binary: Path, tmp_path: Path) -> None:
    with running(binary, tmp_path / "containerd") as containerd:
        await containerd.wait_ready()
        config = containerd.directory / "config.toml"
        settings = CheckSettings(containerd.socket, containerd.hosts, config, registry_address="127.0.0.1:1")
        bad = {finding.name: finding for finding in await check(settings)}
        assert bad["hosts.toml"].level is Level.FAIL
        assert configure(ConfigureSettings(containerd.hosts, (OURS,))).problems == ()
        found = {finding.name: finding for finding in await check(settings)}
        told = {"access", "cluster secret"}
        assert [f for f in found.values() if f.level is not Level.OK and f.name not in told] == []
        assert str(containerd.content) in found["content"].what
        elsewhere = CheckSettings(containerd.socket, tmp_path, config)
        wrong = {finding.name: finding for finding in await check(elsewhere)}
        assert wrong["config_path"].level is Level.FAIL
        assert str(containerd.hosts) in wrong["config_path"].what
        facts = await collect(settings)
        assert facts.registry.discard_unpacked_layers in {None, False}
        told_by_cri = facts.registry.source.startswith("containerd")
        assert facts.version is not None
        assert told_by_cri == facts.version.startswith("1.")
