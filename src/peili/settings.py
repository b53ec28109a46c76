"""Every option of `peili run`, parsed once into frozen values.

A parser takes the text of a flag or of an environment variable and raises InvalidSetting, which says what is
allowed; the command line adds the setting's name and the value.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from peili.follow.settings import FollowSettings
from peili.http.message import SocketAddress
from peili.members.secret_file import SecretFile, read_secrets
from peili.members.secrets import InvalidSecret
from peili.oci.upstream import InvalidUpstream, parse_upstream
from peili.registry.clients import Network
from peili.registry.credentials import Credentials, InvalidCredentials
from peili.routing.bootstrap import Source

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_DURATION = 24 * 3600.0
_MAXIMUM_FILTER_LENGTH = 1024
_MOST_UPLOADS = 100_000
_MAXIMUM_CREDENTIALS_SIZE = 4096
_ZONE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)


class InvalidSetting(ValueError):
    """The value of a setting is wrong; the text says what is allowed."""


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class RouterProtocol(StrEnum):
    """Which kind of cluster this node takes part in."""

    PEILI = "peili"
    SPEGEL = "spegel"


@dataclass(frozen=True, slots=True)
class ContainerdStoreSettings:
    """containerd's content store. `content_path` None: ask containerd.

    Whether containerd asks us at all is seen in its `config_file` (None: not read) and in whether its registry
    config_path is `config_path` (None: not compared).
    """

    socket: Path
    namespace: str
    content_path: Path | None
    config_path: Path | None = None
    config_file: Path | None = None


@dataclass(frozen=True, slots=True)
class LayoutStoreSettings:
    """An OCI image layout directory."""

    directory: Path


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What `peili run` is told. Times in seconds; `mirrored_registries` empty means all."""

    registry_address: SocketAddress
    router_address: SocketAddress
    operations_address: SocketAddress
    advertise_address: str | None
    bootstrap: tuple[Source, ...]
    store: ContainerdStoreSettings | LayoutStoreSettings
    mirrored_registries: frozenset[str]
    filters: tuple[re.Pattern[str], ...]
    resolve_tags: bool
    resolve_latest: bool
    resolve_timeout: float
    stall_timeout: float
    grace_period: float
    follow: FollowSettings | None
    data_directory: Path | None
    credentials: Credentials | None
    cluster_secret: SecretFile | None
    client_networks: tuple[Network, ...]
    max_uploads: int
    router_protocol: RouterProtocol
    peer_networks: tuple[Network, ...]
    zone: str
    log_level: LogLevel


def parse_socket_address(text: str) -> SocketAddress:
    """`IP:PORT` or `[IP6]:PORT`; raise InvalidSetting."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError as error:
        raise InvalidSetting("write IP:PORT, as 0.0.0.0:5000 or [::]:5000") from error
    if not colon or bracketed != (address.version == 6) or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII):
        raise InvalidSetting("write IP:PORT, as 0.0.0.0:5000 or [::]:5000")
    if not 0 < int(port) <= 65535:
        raise InvalidSetting("a port lies between 1 and 65535")
    return SocketAddress(str(address), int(port))


def parse_ip_address(text: str) -> str:
    """An IP address that peers can reach; raise InvalidSetting."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidSetting("write an IP address of this node, as 10.0.0.7") from error
    if address.is_unspecified or address.is_multicast:
        raise InvalidSetting("peers cannot reach this address; write one of this node")
    return str(address)


def parse_network(text: str) -> Network:
    """A network in CIDR notation, or one address; raise InvalidSetting."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        advice = "write a network, as 10.0.0.0/24 or fd00::/64, or one address"
        raise InvalidSetting(f"{advice} ({error})" if "host bits" in str(error) else advice) from error


def check_router_protocol(
    protocol: RouterProtocol, peer_networks: Sequence[Network], *, has_secret: bool
) -> RouterProtocol:
    """The protocol, where the settings that it needs are there; raise InvalidSetting."""
    if protocol is RouterProtocol.SPEGEL and not peer_networks:
        raise InvalidSetting(
            "provider records of Spegel's nodes may name any address: say with --peer-network CIDR where peers are"
        )
    if protocol is RouterProtocol.SPEGEL and has_secret:
        raise InvalidSetting("Spegel's nodes cannot be members: no --cluster-secret-file while there are any")
    return protocol


def parse_duration(text: str) -> float:
    """A time with its unit, in seconds; raise InvalidSetting."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InvalidSetting("write a number with a unit, ms, s, m or h, as 250ms or 1.5s")
    seconds = float(found["number"]) * _SECONDS[found["unit"]]
    if not 0.001 <= seconds <= _LONGEST_DURATION:
        raise InvalidSetting("a duration lies between 1ms and 24h")
    return seconds


def parse_max_uploads(text: str) -> int:
    """How many large blobs go to peers at a time, 0 for as many as they ask for; raise InvalidSetting."""
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or int(text) > _MOST_UPLOADS:
        raise InvalidSetting(f"write a number from 1 to {_MOST_UPLOADS}, or 0 for no limit")
    return int(text)


def parse_mirrored_registry(text: str) -> str:
    """An upstream registry by URL or by host[:port], as containerd's `ns` names it; raise InvalidSetting."""
    try:
        return parse_upstream(text).host
    except InvalidUpstream as error:
        raise InvalidSetting(str(error)) from error


def parse_filter(text: str) -> re.Pattern[str]:
    """A regular expression of references to leave alone; raise InvalidSetting."""
    if len(text) > _MAXIMUM_FILTER_LENGTH:
        raise InvalidSetting(f"a regular expression of at most {_MAXIMUM_FILTER_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # of what reads like another dialect: [[:alpha:]]
            return re.compile(text)
    except (re.error, FutureWarning) as error:
        raise InvalidSetting(f"not a regular expression of Python's re: {error}") from error


def parse_zone(text: str) -> str:
    """A zone's name, or nothing; raise InvalidSetting."""
    if text and not _ZONE.fullmatch(text):
        raise InvalidSetting("a zone is a label of at most 64 letters, digits, '.', '_' and '-'")
    return text


def parse_layout_directory(text: str) -> Path:
    """The directory in `layout:DIR`; raise InvalidSetting."""
    kind, colon, directory = text.partition(":")
    if kind != "layout" or not colon or not directory:
        raise InvalidSetting("write containerd, or layout:DIR with the directory of an OCI image layout")
    return Path(directory)


def read_credentials(path: Path) -> Credentials:
    """The one line `user:password` of a file; raise InvalidSetting, which never repeats what is in it."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAXIMUM_CREDENTIALS_SIZE + 1)
        if len(content) > _MAXIMUM_CREDENTIALS_SIZE:
            raise InvalidSetting(f"the file has more than {_MAXIMUM_CREDENTIALS_SIZE} bytes")
        return Credentials.parse(content.decode("utf-8"))
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSetting(f"{path} is not UTF-8 text") from error
    except InvalidCredentials as error:
        raise InvalidSetting(f"{path}: {error}") from error


def read_cluster_secret(path: Path) -> SecretFile:
    """The cluster secret's file; raise InvalidSetting, which never repeats what is in it."""
    try:
        return read_secrets(path)
    except InvalidSecret as error:
        raise InvalidSetting(str(error)) from error
