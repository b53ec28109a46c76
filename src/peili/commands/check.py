"""`peili check`: is this node's containerd set up as Peili needs it, and what to change if not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peili.commands.options import Parsed, option
from peili.http.message import SocketAddress
from peili.settings import InvalidSetting, parse_socket_address, read_cluster_secret, read_credentials

if TYPE_CHECKING:
    from peili.containerd.findings import Finding, PlaceFact

_ADDRESS = Parsed("IP:PORT", parse_socket_address)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_NAME_WIDTH = 24


@click.command()
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
    default="/etc/containerd/certs.d",
    help="The directory that containerd's registry config_path should name.",
)
@option(
    "--containerd-config-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default="/etc/containerd/config.toml",
    help="containerd's own configuration, read where containerd does not tell.",
)
@option(
    "--mirror-target",
    "mirror_targets",
    multiple=True,
    metavar="URL",
    help="What hosts.toml should name first; repeatable. None: what `peili configure` wrote.",
)
@option("--registry-address", type=_ADDRESS, default="127.0.0.1:5000", help="Where this node's Peili answers.")
@option("--router-address", type=_ADDRESS, default="127.0.0.1:5001", help="Where this node's router listens.")
@option("--operations-address", type=_ADDRESS, default="127.0.0.1:9090", help="Where /readyz is.")
@option(
    "--basic-auth-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file with user:password, where one is used.",
)
@option(
    "--cluster-secret-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file with the cluster secret, where one is used.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def check(
    containerd_socket: Path,
    containerd_namespace: str,
    containerd_content_path: Path | None,
    containerd_config_path: Path,
    containerd_config_file: Path,
    mirror_targets: tuple[str, ...],
    registry_address: SocketAddress,
    router_address: SocketAddress,
    operations_address: SocketAddress,
    basic_auth_file: Path | None,
    cluster_secret_file: Path | None,
    as_json: bool,
) -> None:
    """Look at this node's containerd and say what is right, what is not, and what to do.

    Leaves with status 0 when nothing fails, 1 otherwise.
    """
    import trio

    from peili.containerd.check import CheckSettings
    from peili.containerd.check import check as look

    settings = CheckSettings(
        socket=containerd_socket,
        config_path=containerd_config_path,
        config_file=containerd_config_file,
        namespace=containerd_namespace,
        content_path=containerd_content_path,
        mirror_targets=mirror_targets,
        registry_address=str(registry_address),
        router_address=str(router_address),
        operations_address=str(operations_address),
        basic_auth=_basic_auth(basic_auth_file) if basic_auth_file is not None else None,
        secret=_secret(cluster_secret_file) if cluster_secret_file is not None else None,
    )
    found = trio.run(look, settings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    else:
        for finding in found:
            _show(finding)
    if any(finding.level == "fail" for finding in found):
        raise SystemExit(1)


def _basic_auth(path: Path) -> PlaceFact:
    from peili.containerd.findings import PlaceFact, State

    try:
        read_credentials(path)
    except InvalidSetting as error:
        return PlaceFact(str(path), State.OTHER, str(error))
    return PlaceFact(str(path), State.GOOD)


def _secret(path: Path) -> PlaceFact:
    from peili.containerd.findings import PlaceFact, State

    try:
        count = len(read_cluster_secret(path).keys)
    except InvalidSetting as error:
        return PlaceFact(str(path), State.OTHER, str(error))
    return PlaceFact(str(path), State.GOOD, " (it holds two: one replaces the other)" if count > 1 else "")


def _show(finding: Finding) -> None:
    level = click.style(f"{finding.level.value:<4}", fg=_COLOURS[finding.level.value])
    click.echo(f"{level}  {finding.name:<{_NAME_WIDTH}}  {finding.what}")
    for line in finding.advice.splitlines():
        click.echo(" " * (_NAME_WIDTH + 8) + line)
