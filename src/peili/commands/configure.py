"""`peili configure` and `peili cleanup`: hosts.toml in containerd's registry directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click

from peili.commands.options import CREDENTIALS, option
from peili.registry.credentials import Credentials

_CONFIG_PATH = option(
    "--containerd-config-path",
    type=click.Path(file_okay=False, path_type=Path),
    default="/etc/containerd/certs.d",
    help="The directory that containerd's registry config_path names.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command()
@_CONFIG_PATH
@option(
    "--mirror-target",
    "mirror_targets",
    multiple=True,
    required=True,
    metavar="URL",
    help="Where this node's Peili answers, as http://127.0.0.1:5000; further mirrors may follow; repeatable.",
)
@option(
    "--mirrored-registry",
    "mirrored_registries",
    multiple=True,
    metavar="URL",
    help="An upstream registry to mirror, as https://ghcr.io or ghcr.io; repeatable. None: all.",
)
@option(
    "--prepend-existing/--no-prepend-existing",
    default=True,
    help="Put our hosts in front of those that are there, or replace them.",
)
@option(
    "--basic-auth-file",
    "credentials",
    type=CREDENTIALS,
    help="A file with one line, user:password: written into hosts.toml, which gets mode 0600.",
)
@_JSON
def configure(
    containerd_config_path: Path,
    mirror_targets: tuple[str, ...],
    mirrored_registries: tuple[str, ...],
    prepend_existing: bool,
    credentials: Credentials | None,
    as_json: bool,
) -> None:
    """Have containerd ask this node's Peili first. The original is kept; `peili cleanup` puts it back."""
    from peili.containerd.configure import ConfigureSettings, InvalidConfigureSetting
    from peili.containerd.configure import configure as apply

    try:
        report = apply(
            ConfigureSettings(
                containerd_config_path,
                mirror_targets,
                mirrored_registries,
                prepend_existing,
                credentials.line if credentials is not None else None,
            )
        )
    except InvalidConfigureSetting as error:
        raise click.UsageError(str(error)) from error
    _report(
        {"changed": report.changed, "unchanged": report.unchanged, "put back": report.undone},
        report.problems,
        report.notes,
        as_json=as_json,
    )


@click.command()
@_CONFIG_PATH
@_JSON
def cleanup(containerd_config_path: Path, as_json: bool) -> None:
    """Put containerd's registry directory back as it was before `peili configure`."""
    from peili.containerd.cleanup import cleanup as undo

    report = undo(containerd_config_path)
    _report(
        {"put back": report.restored, "removed": report.removed, "kept with edits": report.kept},
        report.problems,
        report.notes,
        as_json=as_json,
    )


def _report(
    paths: dict[str, tuple[Path, ...]], problems: Iterable[object], notes: tuple[str, ...], *, as_json: bool
) -> None:
    """Say what was done; leave with status 1 where something could not be."""
    failures = [str(problem) for problem in problems]
    if as_json:
        document: dict[str, list[str]] = {
            name.replace(" ", "_"): list(map(str, found)) for name, found in paths.items()
        }
        click.echo(json.dumps({**document, "problems": failures, "notes": list(notes)}))
    else:
        for name, found in paths.items():
            for path in found:
                click.echo(f"{name}: {path}")
        for note in notes:
            click.echo(f"note: {note}")
        for failure in failures:
            click.echo(f"problem: {failure}", err=True)
    if failures:
        raise SystemExit(1)
