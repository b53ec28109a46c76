"""`peili run`: each flag with its variable, its default, and where its value goes; `--help` tells them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from peili.cli import main
from peili.commands.run import run
from peili.follow.settings import FollowSettings
from peili.http.message import SocketAddress
from peili.members.secret_file import read_secrets
from peili.registry.credentials import Credentials
from peili.routing.bootstrap import parse_source
from peili.settings import ContainerdStoreSettings, LayoutStoreSettings, LogLevel, RouterProtocol, RunSettings

# Flag (with what turns it off), variable, default as `--help` writes it, whether it is repeatable.
OPTIONS = [
    ("--registry-address", "PEILI_REGISTRY_ADDRESS", "0.0.0.0:5000", False),
    ("--router-address", "PEILI_ROUTER_ADDRESS", "0.0.0.0:5001", False),
    ("--operations-address", "PEILI_OPERATIONS_ADDRESS", "0.0.0.0:9090", False),
    ("--advertise-address", "PEILI_ADVERTISE_ADDRESS", None, False),
    ("--bootstrap", "PEILI_BOOTSTRAP", None, True),
    ("--store", "PEILI_STORE", "containerd", False),
    ("--containerd-socket", "PEILI_CONTAINERD_SOCKET", "/run/containerd/containerd.sock", False),
    ("--containerd-namespace", "PEILI_CONTAINERD_NAMESPACE", "k8s.io", False),
    ("--containerd-content-path", "PEILI_CONTAINERD_CONTENT_PATH", None, False),
    ("--containerd-config-path", "PEILI_CONTAINERD_CONFIG_PATH", None, False),
    ("--containerd-config-file", "PEILI_CONTAINERD_CONFIG_FILE", None, False),
    ("--mirrored-registry", "PEILI_MIRRORED_REGISTRY", None, True),
    ("--filter", "PEILI_FILTER", None, True),
    ("--resolve-tags / --no-resolve-tags", "PEILI_RESOLVE_TAGS", "resolve-tags", False),
    ("--resolve-latest / --no-resolve-latest", "PEILI_RESOLVE_LATEST", "resolve-latest", False),
    ("--resolve-timeout", "PEILI_RESOLVE_TIMEOUT", "250ms", False),
    ("--stall-timeout", "PEILI_STALL_TIMEOUT", "2s", False),
    ("--grace-period", "PEILI_GRACE_PERIOD", "20s", False),
    ("--follow / --no-follow", "PEILI_FOLLOW", "follow", False),
    ("--fan-out", "PEILI_FAN_OUT", "4", False),
    ("--manifest-wait", "PEILI_MANIFEST_WAIT", "300ms", False),
    ("--data-dir", "PEILI_DATA_DIR", None, False),
    ("--basic-auth-file", "PEILI_BASIC_AUTH_FILE", None, False),
    ("--cluster-secret-file", "PEILI_CLUSTER_SECRET_FILE", None, False),
    ("--client-network", "PEILI_CLIENT_NETWORK", None, True),
    ("--router-protocol", "PEILI_ROUTER_PROTOCOL", "peili", False),
    ("--peer-network", "PEILI_PEER_NETWORK", None, True),
    ("--max-uploads", "PEILI_MAX_UPLOADS", "64", False),
    ("--zone", "PEILI_ZONE", '""', False),
    ("--log-level", "PEILI_LOG_LEVEL", "info", False),
]
CONTAINERD = ContainerdStoreSettings(Path("/run/containerd/containerd.sock"), "k8s.io", None)
FOLLOW = FollowSettings(fan_out=4, stall=2.0, manifest_wait=0.3)
DEFAULTS = RunSettings(
    registry_address=SocketAddress("0.0.0.0", 5000),
    router_address=SocketAddress("0.0.0.0", 5001),
    operations_address=SocketAddress("0.0.0.0", 9090),
    advertise_address=None,
    bootstrap=(),
    store=CONTAINERD,
    mirrored_registries=frozenset(),
    filters=(),
    resolve_tags=True,
    resolve_latest=True,
    resolve_timeout=0.25,
    stall_timeout=2.0,
    grace_period=20.0,
    follow=FOLLOW,
    data_directory=None,
    credentials=None,
    cluster_secret=None,
    client_networks=(),
    max_uploads=64,
    router_protocol=RouterProtocol.PEILI,
    peer_networks=(),
    zone="",
    log_level=LogLevel.INFO,
)
TEN, TWENTY = ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("20.0.0.0/8")
# Flag, values as they are given, and what becomes of the settings.
VALUES: list[tuple[str, list[str], dict[str, Any]]] = [
    ("--registry-address", ["127.0.0.1:1"], {"registry_address": SocketAddress("127.0.0.1", 1)}),
    ("--router-address", ["[::]:2"], {"router_address": SocketAddress("::", 2)}),
    ("--operations-address", ["127.0.0.1:3"], {"operations_address": SocketAddress("127.0.0.1", 3)}),
    ("--advertise-address", ["10.0.0.7"], {"advertise_address": "10.0.0.7"}),
    (
        "--bootstrap",
        ["dns:peers:7", "file:/x"],
        {"bootstrap": (parse_source("dns:peers:7"), parse_source("file:/x"))},
    ),
    ("--store", ["layout:/x"], {"store": LayoutStoreSettings(Path("/x"))}),
    ("--containerd-socket", ["/c.sock"], {"store": replace(CONTAINERD, socket=Path("/c.sock"))}),
    ("--containerd-namespace", ["moby"], {"store": replace(CONTAINERD, namespace="moby")}),
    ("--containerd-content-path", ["/content"], {"store": replace(CONTAINERD, content_path=Path("/content"))}),
    ("--containerd-config-path", ["/certs.d"], {"store": replace(CONTAINERD, config_path=Path("/certs.d"))}),
    ("--containerd-config-file", ["/c.toml"], {"store": replace(CONTAINERD, config_file=Path("/c.toml"))}),
    (
        "--mirrored-registry",
        ["https://ghcr.io", "docker.io"],
        {"mirrored_registries": frozenset({"ghcr.io", "docker.io"})},
    ),
    ("--filter", ["a,b", ":dev$"], {"filters": (re.compile("a,b"), re.compile(":dev$"))}),
    ("--resolve-tags", ["no"], {"resolve_tags": False}),
    ("--resolve-latest", ["no"], {"resolve_latest": False}),
    ("--resolve-timeout", ["1.5s"], {"resolve_timeout": 1.5}),
    ("--stall-timeout", ["1m"], {"stall_timeout": 60.0, "follow": replace(FOLLOW, stall=60.0, longest_stall=60.0)}),
    ("--grace-period", ["1h"], {"grace_period": 3600.0}),
    ("--follow", ["no"], {"follow": None}),
    ("--fan-out", ["5"], {"follow": replace(FOLLOW, fan_out=5)}),
    ("--manifest-wait", ["10ms"], {"follow": replace(FOLLOW, manifest_wait=0.01)}),
    ("--data-dir", ["/data"], {"data_directory": Path("/data")}),
    ("--basic-auth-file", ["FILE"], {"credentials": Credentials("user", "a long password")}),
    ("--cluster-secret-file", ["FILE"], {"cluster_secret": "FILE"}),
    ("--client-network", ["10.0.0.0/8", "20.0.0.0/8"], {"client_networks": (TEN, TWENTY)}),
    ("--router-protocol", ["peili"], {}),  # spegel needs another one: test_run_settings
    ("--peer-network", ["10.0.0.0/8", "20.0.0.0/8"], {"peer_networks": (TEN, TWENTY)}),
    ("--max-uploads", ["0"], {"max_uploads": 0}),
    ("--zone", ["a"], {"zone": "a"}),
    ("--log-level", ["error"], {"log_level": LogLevel.ERROR}),
]


def options() -> list[click.Option]:
    return [parameter for parameter in run.params if isinstance(parameter, click.Option)]


def variable(flag: str) -> str:
    return next(row[1] for row in OPTIONS if row[0].partition(" ")[0] == flag)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """What the daemon is given."""
    seen: list[RunSettings] = []
    monkeypatch.setattr("peili.daemon.run_daemon", seen.append)
    return seen


def start(given: list[RunSettings], arguments: list[str], env: dict[str, str | None]) -> RunSettings:
    result = CliRunner().invoke(main, ["run", *arguments], env=env)
    assert result.exit_code == 0, result.output
    return given.pop()


def test_the_options_and_their_variables_and_defaults() -> None:
    found = []
    for parameter in options():
        spelled = " / ".join([*parameter.opts[:1], *parameter.secondary_opts])
        found.append((spelled, parameter.envvar, parameter.multiple))
    assert found == [(flag, name, multiple) for flag, name, _, multiple in OPTIONS]


def test_help_tells_each_variable_and_default() -> None:
    output = CliRunner().invoke(main, ["run", "--help"], terminal_width=110).output
    blocks = re.split(r"\n  (?=--)", output)[1:]
    told = {block.partition(" ")[0]: " ".join(block.split()) for block in blocks}
    for flag, name, default, _ in OPTIONS:
        said = told[flag.partition(" ")[0]]
        assert f"env var: {name}" in said
        assert (f"default: {default}" in said) if default is not None else ("default:" not in said), said
        if flag.endswith(("timeout", "period", "wait")):
            assert "ms, s" in said


def test_without_options_the_daemon_gets_the_defaults(given: list[RunSettings]) -> None:
    assert start(given, [], {}) == DEFAULTS
    assert {row[0] for row in VALUES} == {flag.partition(" ")[0] for flag, *_ in OPTIONS}


@pytest.mark.parametrize(("flag", "values", "changed"), VALUES, ids=[row[0] for row in VALUES])
def test_a_flag_and_its_variable_come_to_the_daemon(
    given: list[RunSettings], tmp_path: Path, flag: str, values: list[str], changed: dict[str, Any]
) -> None:
    file = tmp_path / "file"
    file.write_text("user:a long password\n")
    file.chmod(0o600)
    values = [str(file) if value == "FILE" else value for value in values]
    if "cluster_secret" in changed:
        changed = {"cluster_secret": read_secrets(file)}
    expected = replace(DEFAULTS, **changed)
    words = [f"{flag}={value}" for value in values]
    if values == ["no"]:
        words = [flag.replace("--", "--no-", 1)]
    for found in (start(given, words, {}), start(given, [], {variable(flag): " ".join(values)})):
        for name in (field.name for field in fields(RunSettings)):
            assert getattr(found, name) == getattr(expected, name), name
