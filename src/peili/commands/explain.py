"""`peili explain IMAGE`: who has the parts of an image, and what this node would do."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from peili.commands.options import Parsed, option
from peili.commands.status import ask_node, size, table
from peili.http.message import SocketAddress
from peili.oci.reference import InvalidReference, Reference
from peili.settings import parse_socket_address

_SHOWN_PROVIDERS = 3


@click.command()
@click.argument("image")
@option(
    "--operations-address",
    type=Parsed("IP:PORT", parse_socket_address),
    default="127.0.0.1:9090",
    help="The operations endpoint of the node to ask.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the node's JSON document.")
def explain(image: str, operations_address: SocketAddress, as_json: bool) -> None:
    """Show for each manifest, config and layer of IMAGE who has it and what this node would do.

    Leaves with status 0 when every part is in the cluster, 1 when something would come from upstream, 2 when the
    node cannot be asked.
    """
    try:
        reference = Reference.parse_familiar(image)
    except InvalidReference as error:
        raise click.UsageError(str(error)) from error
    document = ask_node(operations_address, f"/explain?image={quote(str(reference))}", "parts")
    click.echo(json.dumps(document) if as_json else "\n".join(render(document)))
    if document["problem"] or any(part["action"] == "from upstream" for part in document["parts"]):
        raise SystemExit(1)


def render(document: dict[str, Any]) -> list[str]:
    """The lines of an explanation for people."""
    lines = [document["image"]]
    if document["problem"]:
        lines.append(document["problem"])
    rows = [["KIND", "NAME", "SIZE", "HERE", "PEERS", "A PULL TAKES IT"]]
    for part in document["parts"]:
        providers = part["providers"]
        shown = ", ".join(providers[:_SHOWN_PROVIDERS]) + (", …" if len(providers) > _SHOWN_PROVIDERS else "")
        name = part["name"][:19] if part["kind"] != "tag" else part["name"].rpartition(":")[2]
        length = size(part["size"]) if part["size"] else ""
        rows.append([part["kind"], name, length, "yes" if part["local"] else "no", shown or "-", part["action"]])
    return [*lines, *(_coloured(line) for line in table(rows))]


def _coloured(line: str) -> str:
    """A row in the colour of where the part would come from; echo takes it away where there is no terminal."""
    for ending, colour in (("from this node", "green"), ("from a peer", "cyan"), ("from upstream", "yellow")):
        if line.endswith(ending):
            return line.removesuffix(ending) + click.style(ending, fg=colour)
    return line
