"""What the facts about a node mean: findings that say what is wrong, where, and what to do. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from peili.containerd.configure_settings import DEFAULT
from peili.containerd.facts import RegistryFact, parse_version
from peili.containerd.plugin_settings import CRI_PLUGIN, IMAGES_PLUGIN
from peili.containerd.reports import Problem

_OLDEST = (1, 6, 0)
_SHOWN_NAMESPACES = 10
_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::", "[::]"})


class Level(StrEnum):
    """How bad it is: `fail` keeps Peili from working on this node, `warn` costs something."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is empty where nothing is to be done."""

    name: str
    level: Level
    what: str
    advice: str = ""


class State(StrEnum):
    """What was found at a path or a port."""

    GOOD = "good"  # it answers; it can be read
    MISSING = "missing"  # nothing there: no file, a free port
    DENIED = "denied"  # there, but not for this process
    OTHER = "other"  # something else is there
    UNKNOWN = "unknown"  # could not be found out


@dataclass(frozen=True, slots=True)
class PlaceFact:
    """Something at a path or an address; `detail` is a sentence for the operator."""

    where: str
    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HostsFact:
    """One directory of the registry settings: its hosts in order, spelled as same_host does; so are targets."""

    path: Path
    exists: bool
    hosts: tuple[str, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class NamespaceFact:
    """The containerd namespace that Peili is to look into, and those that there are."""

    name: str
    existing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the check wants to know about a node."""

    socket: PlaceFact
    version: str | None
    registry: RegistryFact
    configured_path: Path
    content: PlaceFact
    targets: tuple[str, ...]
    hosts: Sequence[HostsFact] = ()
    registry_port: PlaceFact | None = None
    operations_port: PlaceFact | None = None
    basic_auth: PlaceFact | None = None  # the file with user:password, where one is named
    secret: PlaceFact | None = None  # the cluster secret's file, where one is named
    router_port: PlaceFact | None = None
    namespace: NamespaceFact | None = None  # None: containerd did not tell


def findings(facts: Facts) -> list[Finding]:
    """What the facts mean, in the order in which an operator would look."""
    version = parse_version(facts.version or "")
    return [
        _socket(facts.socket),
        _version(facts.version, version),
        *([_namespace(facts.namespace)] if facts.namespace else []),
        _config_path(facts.registry, facts.configured_path, version),
        _discard(facts.registry),
        _content(facts.content),
        *_hosts(facts.hosts, facts.targets, facts.configured_path),
        *([_port("registry port", facts.registry_port)] if facts.registry_port else []),
        *([_port("router port", facts.router_port)] if facts.router_port else []),
        *([_port("operations port", facts.operations_port)] if facts.operations_port else []),
        *([_readers(facts, facts.registry_port.where)] if facts.registry_port else []),
        *([_basic_auth(facts.basic_auth)] if facts.basic_auth else []),
        *([_secret(facts.secret)] if facts.secret or facts.registry_port else []),
    ]


def _socket(fact: PlaceFact) -> Finding:
    name = "socket"
    if fact.state is State.GOOD:
        return Finding(name, Level.OK, f"containerd answers at {fact.where}")
    return Finding(
        name, Level.FAIL, fact.detail or f"containerd does not answer at {fact.where}", _socket_advice(fact)
    )


def _socket_advice(fact: PlaceFact) -> str:
    if fact.state is State.DENIED:
        return "run Peili as root, and in a pod look at its security context"
    return "name the socket with --containerd-socket; in a pod mount it from the host"


def _version(text: str | None, version: tuple[int, int, int] | None) -> Finding:
    name = "version"
    if version is None:
        return Finding(name, Level.WARN, f"containerd's version is not known ({text or 'no answer'})")
    what = f"containerd {text}"
    if version < _OLDEST:
        return Finding(name, Level.FAIL, f"{what} is too old", "update containerd to 1.6 or newer")
    if version[0] > 2:
        return Finding(name, Level.WARN, f"{what} is newer than any that Peili was tested with (1.6 to 2.x)")
    if (2, 1, 0) <= version <= (2, 1, 2):
        advice = "update to 2.1.5 or newer"
        return Finding(name, Level.WARN, f"{what} asks for every layer with a range (bytes=0-)", advice)
    if version < (2, 0, 7):
        what += "; it ignores dial_timeout, so a mirror on an unreachable address holds a pull for up to 30 s"
    return Finding(name, Level.OK, what)


def _namespace(fact: NamespaceFact) -> Finding:
    name = "namespace"
    if fact.name in fact.existing:
        return Finding(name, Level.OK, f"the containerd namespace {fact.name} exists")
    if not fact.existing:
        return Finding(
            name, Level.OK, f"containerd has no namespace yet; {fact.name} is there with its first image"
        )
    there = ", ".join(sorted(fact.existing)[:_SHOWN_NAMESPACES])
    what = f"containerd has no namespace {fact.name}, so this node has nothing to offer; there are: {there}"
    advice = "name the right one with --containerd-namespace; it is there with its first image"
    return Finding(name, Level.WARN, what, advice)


def _lines(section: str, path: Path) -> str:
    return f'[plugins."{section}".registry]\n  config_path = "{path}"'


def _config_path(fact: RegistryFact, wanted: Path, version: tuple[int, int, int] | None) -> Finding:
    name = "config_path"
    section = fact.section or (CRI_PLUGIN if version and version[0] < 2 else IMAGES_PLUGIN)
    advice = f"put this into {fact.file} and restart containerd:\n{_lines(section, wanted)}"
    if fact.mirrors:
        advice += "\nand remove the tables registry.mirrors and registry.configs, which exclude config_path"
    if not fact.source:
        what = f"containerd's registry settings could not be read: {fact.detail or 'nobody told them'}"
        return Finding(name, Level.WARN, what, f"see that {fact.file} says:\n{_lines(section, wanted)}")
    if not fact.config_path:
        return Finding(
            name, Level.FAIL, f"registry config_path is not set ({fact.source}): no mirror is used", advice
        )
    paths = fact.config_path.split(":")
    same = [path for path in paths if Path(path) == wanted]
    if len(paths) > 1:
        # As long as layers are discarded the transfer service is not used, which takes the list for one directory.
        ignored = (version is None or version >= (2, 1, 0)) and not fact.discard_unpacked_layers
        level = Level.FAIL if ignored or not same else Level.WARN
        consequence = (
            "containerd 2.1 and newer then ignore every hosts.toml"
            if ignored
            else "the first that has the directory wins"
        )
        return Finding(
            name, level, f"config_path names several directories ({fact.config_path}): {consequence}", advice
        )
    if not same:
        what = f"containerd reads {fact.config_path}, but Peili writes {wanted}"
        return Finding(
            name, Level.FAIL, what, f"configure Peili with --containerd-config-path {fact.config_path}, or {advice}"
        )
    if fact.mirrors:
        return Finding(name, Level.FAIL, "registry.mirrors or registry.configs is set beside config_path", advice)
    return Finding(name, Level.OK, f"containerd reads {wanted} ({fact.source})")


def _discard(fact: RegistryFact) -> Finding:
    name = "discard_unpacked_layers"
    if fact.discard_unpacked_layers is None:
        told = "is not set, which keeps layers" if fact.source else "is not known"
        return Finding(name, Level.OK if fact.source else Level.WARN, f"discard_unpacked_layers {told}")
    if not fact.discard_unpacked_layers:
        return Finding(name, Level.OK, "containerd keeps the layers that it has unpacked")
    what = "discard_unpacked_layers is true: containerd throws layers away, so this node offers none to its peers"
    return Finding(
        name, Level.WARN, what, f"set discard_unpacked_layers = false in {fact.file} and restart containerd"
    )


def _content(fact: PlaceFact) -> Finding:
    name = "content"
    if fact.state is State.GOOD:
        return Finding(name, Level.OK, fact.detail or f"the content store at {fact.where} can be read")
    advice = {
        State.DENIED: "run Peili as uid 0 (containerd's directory is 0700); no capability is needed",
        State.MISSING: "mount containerd's content directory at the same path, or name --containerd-content-path",
        State.OTHER: "name io.containerd.content.v1.content with --containerd-content-path",
        State.UNKNOWN: "name it with --containerd-content-path",
    }[fact.state]
    level = Level.WARN if fact.state is State.UNKNOWN else Level.FAIL
    return Finding(name, level, fact.detail or f"the content store at {fact.where} cannot be read", advice)


def _hosts(facts: Sequence[HostsFact], targets: tuple[str, ...], root: Path) -> list[Finding]:
    """Where `_default` asks Peili, every registry is meant to; otherwise the ones that do were named."""
    name, advice = "hosts.toml", "run `peili configure`"
    asking = [fact for fact in facts if set(fact.hosts) & set(targets)]
    found = [_broken(name, fact.problem) for fact in facts if fact.problem is not None]
    if not asking:
        return [*found, Finding(name, Level.FAIL, f"no hosts.toml in {root} asks Peili", advice)]
    everything = any(fact.path.parent.name == DEFAULT for fact in asking)
    return found + [
        _hosts_file(name, fact, targets, advice)
        for fact in facts
        if fact.problem is None and (everything or fact in asking)
    ]


def _broken(name: str, problem: Problem) -> Finding:
    repair = "repair it, containerd ignores it as it is; then run `peili configure`"
    return Finding(name, Level.FAIL, str(problem), repair)


def _hosts_file(name: str, fact: HostsFact, targets: tuple[str, ...], advice: str) -> Finding:
    if not fact.exists:
        return Finding(name, Level.WARN, f"{fact.path.parent} has no hosts.toml and hides {DEFAULT}", advice)
    if fact.hosts and fact.hosts[0] in targets:
        return Finding(name, Level.OK, f"{fact.path} asks Peili first")
    if set(targets) & set(fact.hosts):
        return Finding(name, Level.WARN, f"{fact.path} asks {fact.hosts[0]} before Peili", advice)
    return Finding(name, Level.WARN, f"{fact.path} does not ask Peili and hides {DEFAULT}", advice)


def _port(name: str, fact: PlaceFact) -> Finding:
    if fact.state is State.GOOD and fact.detail:
        return Finding(name, Level.WARN, f"Peili answers at {fact.where}, but {fact.detail}")
    if fact.state is State.GOOD:
        return Finding(name, Level.OK, f"Peili answers at {fact.where}")
    if fact.state is State.MISSING:
        return Finding(name, Level.OK, f"{fact.where} is free: Peili does not run here yet")
    what = f"{fact.where}: {fact.detail or 'no answer'}"
    return Finding(name, Level.FAIL, what, "stop what has the port, or choose another one for Peili")


def _readers(facts: Facts, address: str) -> Finding:
    name = "access"
    has_secret = facts.secret is not None and facts.secret.state is State.GOOD
    has_basic_auth = facts.basic_auth is not None and facts.basic_auth.state is State.GOOD
    if has_basic_auth and has_secret:
        return Finding(name, Level.OK, "only members, and clients with the password, can read images")
    if has_basic_auth:
        what = "basic authentication is on: only who knows the password can read images, which goes to every peer"
        return Finding(name, Level.OK, what)
    if has_secret:
        what = "only members, and clients on this machine or in a --client-network, can read images"
        return Finding(name, Level.OK, what)
    host = address.rpartition(":")[0]
    who = "everyone who reaches this node" if host in _ALL_ADDRESSES else f"everyone who reaches {host}"
    what = f"neither cluster secret nor basic authentication: {who} at {address} can read every image on it"
    advice = "use --cluster-secret-file, or --basic-auth-file, or a network policy that lets only nodes in"
    return Finding(name, Level.WARN, what, advice)


def _basic_auth(fact: PlaceFact) -> Finding:
    name = "basic authentication"
    if fact.state is State.GOOD:
        return Finding(name, Level.OK, f"clients have to present what is in {fact.where}")
    what = f"--basic-auth-file (PEILI_BASIC_AUTH_FILE): {fact.detail or f'{fact.where} holds no user:password'}"
    return Finding(name, Level.FAIL, what, "correct the file: `peili run` does not start with it")


def _secret(fact: PlaceFact | None) -> Finding:
    name = "cluster secret"
    if fact is None:
        what = "no cluster secret: everybody who reaches the ports can answer for tags and read every image"
        advice = "write the output of `openssl rand -hex 32` to a file on every node, and name it with "
        return Finding(name, Level.WARN, what, advice + "--cluster-secret-file here and in `peili run`")
    if fact.state is State.GOOD:
        return Finding(name, Level.OK, f"only nodes with the secret in {fact.where} take part{fact.detail}")
    what = fact.detail or f"{fact.where} holds no secret"
    return Finding(name, Level.FAIL, what, "correct the file: `peili run` does not start with it")
