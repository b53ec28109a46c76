"""`peili run`: one node."""

from __future__ import annotations

import re
from pathlib import Path

import click

from peili.commands.options import CREDENTIALS, Parsed, option
from peili.follow.settings import FollowSettings
from peili.http.message import SocketAddress
from peili.members.secret_file import SecretFile
from peili.registry.clients import Network
from peili.registry.credentials import Credentials
from peili.registry.uploads import DEFAULT_UPLOADS
from peili.routing.bootstrap import Source, parse_source
from peili.settings import (
    ContainerdStoreSettings,
    InvalidSetting,
    LayoutStoreSettings,
    LogLevel,
    RouterProtocol,
    RunSettings,
    check_router_protocol,
    parse_duration,
    parse_filter,
    parse_ip_address,
    parse_layout_directory,
    parse_max_uploads,
    parse_mirrored_registry,
    parse_network,
    parse_socket_address,
    parse_zone,
    read_cluster_secret,
)

_ADDRESS = Parsed("IP:PORT", parse_socket_address)
_DURATION = Parsed("DURATION", parse_duration)
_SECRET = Parsed("PATH", lambda text: read_cluster_secret(Path(text)))


@click.command()
@option(
    "--registry-address", type=_ADDRESS, default="0.0.0.0:5000", help="Where containerd and peers ask for content."
)
@option("--router-address", type=_ADDRESS, default="0.0.0.0:5001", help="Where peers' routers connect.")
@option(
    "--operations-address",
    type=_ADDRESS,
    default="0.0.0.0:9090",
    help="Where /readyz, /livez, /metrics and /status are.",
)
@option(
    "--advertise-address",
    type=Parsed("IP", parse_ip_address),
    help="The IP address under which peers reach this node. By default the router's, or the default route's.",
)
@option(
    "--bootstrap",
    type=Parsed("SOURCE", parse_source),
    multiple=True,
    help="Where the first peers are found: dns:NAME[:PORT], http:URL, static:ADDRESS,… or file:PATH; repeatable. "
    "An ADDRESS is a multiaddr or IP:PORT, the peer id may be left out. None: a cluster of one.",
)
@option(
    "--store",
    default="containerd",
    metavar="containerd|layout:DIR",
    help="The content that this node offers: containerd's, or an OCI image layout's.",
)
@option(
    "--containerd-socket",
    type=click.Path(path_type=Path),
    default="/run/containerd/containerd.sock",
    help="containerd's socket.",
)
@option("--containerd-namespace", default="k8s.io", help="The containerd namespace; the kubelet's is k8s.io.")
@option(
    "--containerd-content-path",
    type=click.Path(path_type=Path),
    help="containerd's content directory. Without it containerd is asked.",
)
@option(
    "--containerd-config-path",
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory that containerd's registry config_path should name; where it certainly names another one "
    "the node is not ready. None: any directory is right.",
)
@option(
    "--containerd-config-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="containerd's own configuration, read for config_path where containerd does not tell (2.x). None: not "
    "read, so that the node is ready whatever it says.",
)
@option(
    "--mirrored-registry",
    type=Parsed("URL", parse_mirrored_registry),
    multiple=True,
    help="An upstream registry to mirror, as https://ghcr.io or ghcr.io; repeatable. None: all.",
)
@option(
    "--filter",
    "filters",
    type=Parsed("REGEX", parse_filter),
    multiple=True,
    help="References (registry/repository:tag or …@digest) that match are left alone; repeatable. A comma belongs "
    "to the expression: a,b is one that no reference matches.",
)
@option("--resolve-tags/--no-resolve-tags", default=True, help="Answer tags, or leave all of them to upstream.")
@option(
    "--resolve-latest/--no-resolve-latest", default=True, help="Answer the tag latest, or leave it to upstream."
)
@option(
    "--resolve-timeout",
    type=_DURATION,
    default="250ms",
    help="How long the first provider may take to be found (ms, s, m, h); then containerd goes upstream.",
)
@option(
    "--stall-timeout",
    type=_DURATION,
    default="2s",
    help="How long a provider may be silent before another one takes over (ms, s, m, h).",
)
@option(
    "--grace-period",
    type=_DURATION,
    default="20s",
    help="How long transfers may go on after SIGTERM (ms, s, m, h).",
)
@option(
    "--follow/--no-follow",
    default=True,
    help="Take layers from nodes that are still receiving them, and let others take them from here.",
)
@option(
    "--fan-out",
    type=click.IntRange(1, 64),
    default=FollowSettings().fan_out,
    help="How many nodes take the same layer from one node while it is in flight.",
)
@option(
    "--manifest-wait",
    type=_DURATION,
    default="300ms",
    help="How long a manifest or config may wait for the node that fetches it (ms, s).",
)
@option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps this node's identity over restarts. Without it each start is a new peer.",
)
@option(
    "--basic-auth-file",
    "credentials",
    type=CREDENTIALS,
    help="A file with one line, user:password: what every client of the registry endpoint must present.",
)
@option(
    "--cluster-secret-file",
    "cluster_secret",
    type=_SECRET,
    help="A file with a secret of at least 16 bytes that makes this node a member of its cluster, or with two, one "
    "a line, while one replaces the other: the first is used, both are accepted; changes are seen while it runs. "
    "Without it everybody who reaches the ports can answer for tags and read every image.",
)
@option(
    "--client-network",
    "client_networks",
    type=Parsed("CIDR", parse_network),
    multiple=True,
    help="Where requests may come from that are no member's, beside this machine's own addresses; repeatable. "
    "None: from nowhere else with a cluster secret, from everywhere without one.",
)
@option(
    "--router-protocol",
    type=click.Choice([protocol.value for protocol in RouterProtocol]),
    default=RouterProtocol.PEILI.value,
    help="The kind of cluster: peili, or spegel to take part in an existing one of Spegel's nodes.",
)
@option(
    "--peer-network",
    "peer_networks",
    type=Parsed("CIDR", parse_network),
    multiple=True,
    help="Where peers and providers may be; repeatable. Needed with --router-protocol spegel. None: anywhere.",
)
@option(
    "--max-uploads",
    type=Parsed("NUMBER", parse_max_uploads),
    default=str(DEFAULT_UPLOADS),
    help="How many large blobs are sent to peers at a time; over it a peer goes to the next provider, or upstream. "
    "0: no limit. This node's containerd is never refused.",
)
@option(
    "--zone",
    type=Parsed("NAME", parse_zone),
    default="",
    help="This node's zone: providers of the same zone come first.",
)
@option(
    "--log-level",
    type=click.Choice([level.value for level in LogLevel]),
    default="info",
    help="How much is logged, to standard error.",
)
def run(
    registry_address: SocketAddress,
    router_address: SocketAddress,
    operations_address: SocketAddress,
    advertise_address: str | None,
    bootstrap: tuple[Source, ...],
    store: str,
    containerd_socket: Path,
    containerd_namespace: str,
    containerd_content_path: Path | None,
    containerd_config_path: Path | None,
    containerd_config_file: Path | None,
    mirrored_registry: tuple[str, ...],
    filters: tuple[re.Pattern[str], ...],
    resolve_tags: bool,
    resolve_latest: bool,
    resolve_timeout: float,
    stall_timeout: float,
    grace_period: float,
    follow: bool,
    fan_out: int,
    manifest_wait: float,
    data_dir: Path | None,
    credentials: Credentials | None,
    cluster_secret: SecretFile | None,
    client_networks: tuple[Network, ...],
    max_uploads: int,
    router_protocol: str,
    peer_networks: tuple[Network, ...],
    zone: str,
    log_level: str,
) -> None:
    """Run the mirror of this node until SIGTERM."""
    # Imported here, because the other commands should not pay for gRPC and TLS.
    from peili.daemon import run_daemon

    settings = RunSettings(
        registry_address=registry_address,
        router_address=router_address,
        operations_address=operations_address,
        advertise_address=advertise_address,
        bootstrap=bootstrap,
        store=_store(
            store,
            ContainerdStoreSettings(
                containerd_socket,
                containerd_namespace,
                containerd_content_path,
                containerd_config_path,
                containerd_config_file,
            ),
        ),
        mirrored_registries=frozenset(mirrored_registry),
        filters=filters,
        resolve_tags=resolve_tags,
        resolve_latest=resolve_latest,
        resolve_timeout=resolve_timeout,
        stall_timeout=stall_timeout,
        grace_period=grace_period,
        follow=_follow(fan_out, stall_timeout, manifest_wait) if follow else None,
        data_directory=data_dir,
        credentials=credentials,
        cluster_secret=cluster_secret,
        client_networks=client_networks,
        max_uploads=max_uploads,
        router_protocol=_protocol(router_protocol, peer_networks, has_secret=cluster_secret is not None),
        peer_networks=peer_networks,
        zone=zone,
        log_level=LogLevel(log_level),
    )
    run_daemon(settings)


def _follow(fan_out: int, stall_timeout: float, manifest_wait: float) -> FollowSettings:
    longest = max(FollowSettings().longest_stall, stall_timeout)
    return FollowSettings(fan_out=fan_out, stall=stall_timeout, longest_stall=longest, manifest_wait=manifest_wait)


def _protocol(text: str, peer_networks: tuple[Network, ...], *, has_secret: bool) -> RouterProtocol:
    try:
        return check_router_protocol(RouterProtocol(text), peer_networks, has_secret=has_secret)
    except InvalidSetting as error:
        hint = "'--router-protocol' (env var: 'PEILI_ROUTER_PROTOCOL')"
        raise click.BadParameter(f"{text!r}: {error}", param_hint=hint) from error


def _store(text: str, containerd: ContainerdStoreSettings) -> ContainerdStoreSettings | LayoutStoreSettings:
    if text == "containerd":
        return containerd
    try:
        return LayoutStoreSettings(parse_layout_directory(text))
    except InvalidSetting as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="'--store' (env var: 'PEILI_STORE')") from error
