"""What `peili configure` is told, checked: mirror targets, mirrored registries, credentials."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from peili.containerd.hosts import same_host
from peili.containerd.hosts_merge import MirrorHost
from peili.oci.reference import InvalidReference, check_registry
from peili.oci.upstream import InvalidUpstream, Upstream, parse_upstream

# containerd tries every host one after the other; more than a few make each miss slow.
MAXIMUM_TARGETS = 16
MAXIMUM_REGISTRIES = 256
DEFAULT = "_default"
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")


class InvalidConfigureSetting(ValueError):
    """A setting of `peili configure` is wrong: the text says which, its value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class ConfigureSettings:
    """What `peili configure` is to do.

    `config_path` is the directory that containerd's registry config_path names. `mirror_targets` are URLs, this
    node's Peili first, then further mirrors. `mirrored_registries` are URLs or host[:port]; none means all.
    `basic_auth` is `user:password`; it is written for the first target and for others on the same host, never for
    foreign ones.
    """

    config_path: Path
    mirror_targets: tuple[str, ...]
    mirrored_registries: tuple[str, ...] = ()
    prepend_existing: bool = True
    basic_auth: str | None = field(default=None, repr=False)


def parse_registry(text: str) -> Upstream:
    """A mirrored registry's URL or host[:port]; raise InvalidConfigureSetting, which names no password."""
    try:
        return parse_upstream(text)
    except InvalidUpstream as error:
        shown = text.rpartition("@")[2]
        raise InvalidConfigureSetting(f"mirrored registry {shown!r}: {error}") from error


def parse_target(url: str) -> str:
    """A mirror target's URL as it goes into hosts.toml; raise InvalidConfigureSetting."""
    parts = _split("mirror target", url)
    try:
        host = check_registry(parts.netloc)
    except InvalidReference as error:
        raise InvalidConfigureSetting(f"mirror target {url!r}: {error}") from error
    if host.startswith("["):
        # "table key cannot contain ']'" (seen on 1.6.20 and 1.7.24): the upstream in that file would be lost too.
        raise InvalidConfigureSetting(
            f"mirror target {url!r}: containerd 1.6 and 1.7 ignore a whole hosts.toml that names an IPv6 address; "
            "write http://localhost:PORT, which reaches it over IPv6 as well"
        )
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def _split(name: str, url: str) -> SplitResult:
    allowed = "allowed is http://host[:port] or https://host[:port]"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidConfigureSetting(f"{name} {url!r} is not a URL; {allowed}") from error
    if parts.scheme not in {"http", "https"} or not parts.netloc or not _PRINTABLE.fullmatch(url):
        raise InvalidConfigureSetting(f"{name} {url!r} is not a URL; {allowed}")
    if "@" in parts.netloc:
        raise InvalidConfigureSetting(f"{name} {parts.hostname!r}: no user or password belongs into the URL")
    if parts.query or parts.fragment:
        raise InvalidConfigureSetting(f"{name} {url!r} has a query or a fragment; {allowed}")
    return parts


def mirror_hosts(settings: ConfigureSettings) -> tuple[MirrorHost, ...]:
    """The hosts to write, in order, each once; raise InvalidConfigureSetting."""
    if not 1 <= len(settings.mirror_targets) <= MAXIMUM_TARGETS:
        count = len(settings.mirror_targets)
        raise InvalidConfigureSetting(f"mirror targets: {count} given; allowed are 1 to {MAXIMUM_TARGETS} URLs")
    authorization = _authorization(settings.basic_auth)
    targets: dict[str, str] = {}
    for url in settings.mirror_targets:
        target = parse_target(url)
        targets.setdefault(same_host(target), target)
    unique = tuple(targets.values())
    own = urlsplit(unique[0]).hostname
    return tuple(MirrorHost(url, authorization if urlsplit(url).hostname == own else None) for url in unique)


def _authorization(basic_auth: str | None) -> str | None:
    """The header's value (RFC 7617)."""
    if basic_auth is None:
        return None
    user, colon, _ = basic_auth.partition(":")
    if not user or not colon or not _PRINTABLE.fullmatch(basic_auth):
        raise InvalidConfigureSetting("basic auth: one line of the form user:password is needed")
    return f"Basic {base64.b64encode(basic_auth.encode()).decode()}"


def registries(settings: ConfigureSettings) -> tuple[Upstream, ...]:
    """The registries to mirror, each once, none for all; raise InvalidConfigureSetting."""
    if len(settings.mirrored_registries) > MAXIMUM_REGISTRIES:
        raise InvalidConfigureSetting(f"mirrored registries: at most {MAXIMUM_REGISTRIES}")
    found: dict[str, Upstream] = {}
    for url in settings.mirrored_registries:
        registry = parse_registry(url)
        if found.setdefault(registry.host, registry) != registry:
            raise InvalidConfigureSetting(
                f"mirrored registries: {registry.host} is named twice, as {found[registry.host].server} and as "
                f"{registry.server}; name it once"
            )
    return tuple(found.values())


def lookup_names(host: str) -> tuple[str, ...]:
    """The directories in which containerd looks for a registry before `_default`: the first that exists wins."""
    before, colon, port = host.rpartition(":")
    return (f"{before}_{port}_", host) if colon and before else (host,)


def directory_name(host: str, existing: Collection[str]) -> str:
    """The directory to write for a registry: the one that containerd finds, or a new one by its own name."""
    return next((name for name in lookup_names(host) if name in existing), host)


_DIRECTORY = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5}|_[0-9]{1,5}_)?")


def is_registry_directory(name: str) -> bool:
    """Whether containerd can look for a registry under this name."""
    return name == DEFAULT or bool(_DIRECTORY.fullmatch(name))
