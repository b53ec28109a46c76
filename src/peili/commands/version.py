"""`peili version`."""

from __future__ import annotations

import json

import click

from peili.version import VERSION


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def version(as_json: bool) -> None:
    """Print the version."""
    click.echo(json.dumps({"version": VERSION}) if as_json else f"peili {VERSION}")
