"""`peili check`: is this node's containerd set up as Peili needs it? The facts; findings.py judges them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from peili.containerd.backup import HOSTS_FILE, DamagedRecord, find_backup
from peili.containerd.client import Client
from peili.containerd.configure_settings import DEFAULT, is_registry_directory
from peili.containerd.errors import ContainerdError, Failure
from peili.containerd.facts import parse_version
from peili.containerd.files import UnsafePath, explain, read_inside
from peili.containerd.findings import (
    Facts,
    Finding,
    HostsFact,
    Level,
    NamespaceFact,
    PlaceFact,
    State,
    findings,
)
from peili.containerd.hosts import MAXIMUM_HOSTS_FILE_SIZE, InvalidHostsFile, parse_hosts, same_host
from peili.containerd.registry_fact import CALL_SECONDS, ask_cri, read_config
from peili.containerd.reports import Problem
from peili.libp2p.multistream import HEADER, encode_line

__all__ = ["CheckSettings", "Finding", "Level", "check"]

MAXIMUM_ANSWER = 4096  # bytes of an HTTP answer that are looked at
MAXIMUM_DIRECTORIES = 1000
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What Peili is to be started with; addresses are `host:port`, None: not looked at.

    Without `mirror_targets` those count that `peili configure` has recorded.
    """

    socket: Path
    config_path: Path
    config_file: Path = Path("/etc/containerd/config.toml")
    namespace: str = "k8s.io"
    content_path: Path | None = None
    mirror_targets: tuple[str, ...] = ()
    registry_address: str | None = None
    router_address: str | None = None
    operations_address: str | None = None
    basic_auth: PlaceFact | None = None
    secret: PlaceFact | None = None


async def check(settings: CheckSettings) -> list[Finding]:
    """All findings about this node. Changes nothing, and raises nothing for a node that is set up wrongly."""
    return findings(await collect(settings))


async def collect(settings: CheckSettings) -> Facts:
    """The facts about this node."""
    socket, version, content, namespaces = await _containerd(settings)
    file = settings.config_file
    registry = await ask_cri(settings.socket, str(file)) if socket.state is State.GOOD else None
    if registry is None:
        registry = await trio.to_thread.run_sync(read_config, file, parse_version(version or ""))
    return Facts(
        socket,
        version,
        registry,
        settings.config_path,
        await trio.to_thread.run_sync(content_fact, settings.content_path or content),
        await trio.to_thread.run_sync(_targets, settings),
        await trio.to_thread.run_sync(_hosts, settings.config_path),
        await _http_port(settings.registry_address, "/v2/", frozenset({200, 403})),
        await _http_port(settings.operations_address, "/readyz", frozenset({200, 503})),
        settings.basic_auth,
        settings.secret,
        await _router_port(settings.router_address),
        NamespaceFact(settings.namespace, namespaces) if namespaces is not None else None,
    )


async def _containerd(
    settings: CheckSettings,
) -> tuple[PlaceFact, str | None, Path | None, tuple[str, ...] | None]:
    """Whether containerd answers, its version, where its content lies, and its namespaces."""
    where = str(settings.socket)
    version: str | None = None
    root: str | None = None
    namespaces: tuple[str, ...] | None = None
    with Client(settings.socket, settings.namespace) as client:
        try:
            with trio.move_on_after(CALL_SECONDS):
                version = (await client.version()).version
        except ContainerdError as error:
            state = State.DENIED if error.failure is Failure.PERMISSION else State.OTHER
            return PlaceFact(where, state, str(error)), None, None, None
        if version is None:
            late = f"{where} does not answer within {CALL_SECONDS:g} s"
            return PlaceFact(where, State.OTHER, late), None, None, None
        with suppress(ContainerdError), trio.move_on_after(CALL_SECONDS):
            plugins = await client.plugins(["type==io.containerd.content.v1"])
            root = next((plugin.exports["root"] for plugin in plugins if plugin.exports.get("root")), None)
        with suppress(ContainerdError), trio.move_on_after(CALL_SECONDS):
            namespaces = tuple(await client.namespaces())
        return PlaceFact(where, State.GOOD), version, Path(root) if root else None, namespaces


def content_fact(path: Path | None) -> PlaceFact:
    """Whether the blobs can be listed; a store that is new has none yet."""
    if path is None:
        return PlaceFact("", State.UNKNOWN, "where containerd keeps its content is not known")
    state, detail = State.GOOD, ""
    try:
        entries = {entry.name for entry in path.iterdir()}
        if entries and not entries & {"blobs", "ingest"}:
            state, detail = State.OTHER, f"{path} is no content store: neither blobs nor ingest is there"
        if "blobs" in entries:
            next((path / "blobs").iterdir(), None)
    except PermissionError:
        state, detail = State.DENIED, f"no permission to read {path}"
    except FileNotFoundError:
        if _is_new(path):
            detail = f"{path} is not there yet; containerd makes it for its first image"
        else:
            state, detail = State.MISSING, f"there is no {path}, as Peili sees it"
    except OSError as error:
        state, detail = State.OTHER, f"{path}: {explain(error)}"
    return PlaceFact(str(path), state, detail)


def _is_new(path: Path) -> bool:
    """Whether containerd's root is here and its content store is not made yet (1.7 and newer make it late)."""
    try:
        return any(entry.name.startswith("io.containerd.") for entry in path.parent.iterdir())
    except OSError:
        return False


def _targets(settings: CheckSettings) -> tuple[str, ...]:
    targets = settings.mirror_targets
    if not targets:
        try:
            backup = find_backup(settings.config_path.resolve())
            targets = backup.record.targets if backup else ()
        except (DamagedRecord, UnsafePath, OSError):
            targets = ()
    return tuple(same_host(url) for url in targets)


def _hosts(config_path: Path) -> tuple[HostsFact, ...]:
    root = config_path.resolve()
    try:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    except OSError:
        return ()
    known = [name for name in names if is_registry_directory(name)]
    hides = [name for name in known if name != DEFAULT]
    return tuple(
        _host_file(root, name) for name in [*([DEFAULT] if DEFAULT in known else []), *hides][:MAXIMUM_DIRECTORIES]
    )


def _host_file(root: Path, name: str) -> HostsFact:
    path = root / name / HOSTS_FILE
    try:
        content = read_inside(path, root, MAXIMUM_HOSTS_FILE_SIZE)
        hosts = tuple(same_host(url) for url in parse_hosts(content).hosts) if content is not None else ()
    except InvalidHostsFile as error:
        return HostsFact(path, True, (), Problem(path, str(error), error.line))
    except UnsafePath as error:
        return HostsFact(path, True, (), Problem(path, str(error)))
    except OSError as error:
        return HostsFact(path, True, (), Problem(path, explain(error)))
    return HostsFact(path, content is not None, hosts)


async def _http_port(address: str | None, path: str, ours: frozenset[int]) -> PlaceFact | None:
    """Whether Peili answers here, or nothing, or something else."""
    if address is None:
        return None
    answer = await _say(address, f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    return answer if isinstance(answer, PlaceFact) else judge_answer(address, path, answer, ours)


async def _router_port(address: str | None) -> PlaceFact | None:
    """Whether a router answers here: both sides of libp2p begin with the same line, whoever the peers are."""
    if address is None:
        return None
    greeting = encode_line(HEADER)
    answer = await _say(address, greeting, len(greeting))
    if isinstance(answer, PlaceFact):
        return answer
    if answer != greeting:
        return PlaceFact(address, State.OTHER, "another program has this port; it does not speak libp2p")
    return PlaceFact(address, State.GOOD)


async def _say(address: str, words: bytes, enough: int = MAXIMUM_ANSWER) -> bytes | PlaceFact:
    """The first `enough` bytes of what is answered here, or what keeps us from it."""
    host, _, port = address.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host.strip("[]"), host.strip("[]"))
    answer = b""
    with trio.move_on_after(CALL_SECONDS):
        try:
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(words)
                while len(answer) < enough and (part := await stream.receive_some(enough - len(answer))):
                    answer += part
        except ValueError:
            return PlaceFact(address, State.OTHER, "it is not of the form host:port")
        except (OSError, trio.BrokenResourceError) as error:
            if _is_refused(error):
                return PlaceFact(address, State.MISSING)
            return PlaceFact(address, State.OTHER, f"no answer ({error})")
    return answer


def _is_refused(error: BaseException) -> bool:
    """open_tcp_stream wraps what the attempts at a host's addresses met."""
    if isinstance(error, ConnectionRefusedError):
        return True
    cause = error.__cause__
    inner = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
    return all(isinstance(one, ConnectionRefusedError) for one in inner)


def judge_answer(address: str, path: str, answer: bytes, ours: frozenset[int]) -> PlaceFact:
    """What the first bytes of an HTTP answer mean."""
    found = _STATUS.match(answer)
    status = int(found[1]) if found else None
    if status not in ours:
        told = f"with {status}" if status else "in no HTTP" if answer else "nothing"
        return PlaceFact(address, State.OTHER, f"another program has this port; it answers GET {path} {told}")
    detail = "it is not ready yet; see its /readyz" if status == 503 else ""
    return PlaceFact(address, State.GOOD, detail)
