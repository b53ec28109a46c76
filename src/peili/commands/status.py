"""`peili status`: what a running node says of itself."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import click

from peili.commands.options import Parsed, option
from peili.http.message import SocketAddress
from peili.settings import parse_socket_address

_MAXIMUM_STATUS_SIZE = 16 * 1024 * 1024
_TIMEOUT = 5.0  # seconds
_SHOWN_REQUESTS = 10
_WATCH_INTERVAL = 2.0  # seconds
_UNITS = ("B", "kB", "MB", "GB", "TB")


@click.command()
@option(
    "--operations-address",
    type=Parsed("IP:PORT", parse_socket_address),
    default="127.0.0.1:9090",
    help="The operations endpoint of the node to ask.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the node's JSON document.")
@click.option(
    "--watch",
    is_flag=True,
    help="Show it anew every two seconds, until Ctrl-C, also while the node is away; --json: one document a line.",
)
def status(operations_address: SocketAddress, as_json: bool, watch: bool) -> None:
    """Show a running node's peers, keys, latest requests, and where their bytes came from.

    Leaves with status 0 when the node is ready, 1 when it is not, 2 when it cannot be asked.
    """
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(operations_address, as_json=as_json)
        return
    document = fetch_status(operations_address)
    click.echo(json.dumps(document) if as_json else "\n".join(render(document)))
    if not document["ready"]:
        raise SystemExit(1)


def _watch(address: SocketAddress, *, as_json: bool) -> None:
    """A node that restarts is what one watches for: no answer is shown like one, and asked for again."""
    while True:
        try:
            document = read_node(address, "/status", "ready")
            lines = [json.dumps(document)] if as_json else render(document)
        except NoAnswer as error:
            lines = [json.dumps({"problem": str(error)}) if as_json else click.style(str(error), fg="red")]
        if not as_json:
            click.clear()
        click.echo("\n".join(lines))
        time.sleep(_WATCH_INTERVAL)


class NoAnswer(Exception):
    """No Peili answers; the text says where, why, and what to look at."""


def fetch_status(address: SocketAddress) -> dict[str, Any]:
    """The status document of a node; leave with status 2 and a sentence where there is none."""
    return ask_node(address, "/status", "ready")


def ask_node(address: SocketAddress, target: str, field: str) -> dict[str, Any]:
    """A JSON document of the operations endpoint that has this field; leave with status 2 where there is none."""
    try:
        return read_node(address, target, field)
    except NoAnswer as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from error


def read_node(address: SocketAddress, target: str, field: str) -> dict[str, Any]:
    """A JSON document of the operations endpoint that has this field; raise NoAnswer."""
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(address.host, address.host)
    url = f"http://{SocketAddress(host, address.port)}{target}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            document = json.loads(answer.read(_MAXIMUM_STATUS_SIZE))
        if not isinstance(document, dict) or field not in document:
            raise ValueError("the answer is not Peili's")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = f"no Peili answers at {url}: {reason}. Is it running, and is this its --operations-address?"
        raise NoAnswer(text) from error
    return document


def render(document: dict[str, Any]) -> list[str]:
    """The lines of a status for people."""
    router, store, totals = document["router"], document["store"], document["totals"]
    ready = click.style("ready", fg="green")
    if not document["ready"]:
        ready = click.style(f"NOT READY: {document['reason']}", fg="red", bold=True)
    held = ", ".join(f"{count} {kind}" for kind, count in store["keys"].items() if count)
    lines = [
        f"peili {document['version']}   {ready}",
        "",
        f"store    {store['kind']} ({store['detail']}): {held or 'empty'}; {size(store['bytes'])}",
        f"router   {router['kind']} {router['peer_id']}: {router['provided_keys']} keys provided, "
        f"{router['records']} records kept for others",
    ]
    lines += [f"         {store['problem']}"] if store["problem"] else []
    lines += [f"         {router['bootstrap_problem']}"] if router["bootstrap_problem"] else []
    lines += ["", *_totals(totals), *_cold_pulls(document.get("cold_pulls"))]
    lines += ["", *_peers(router["peers"]), "", *_requests(document["requests"])]
    return lines


def size(count: float) -> str:
    """Bytes for people: 12.3 MB (powers of 1000, as registries show them)."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Columns aligned to their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _totals(totals: dict[str, int]) -> list[str]:
    # As docs/metrics.md counts it: what this node had already spares upstream nothing.
    pulled = totals["bytes_from_peers"] + totals["bytes_from_upstream"]
    share = f" ({totals['bytes_from_peers'] / pulled:.0%} saved)" if pulled else ""
    return [
        f"pulled   {size(totals['bytes_from_peers'])} from peers, {size(totals['bytes_from_local'])} from here, "
        f"{size(totals['bytes_from_upstream'])} from upstream{share}",
        f"served   {size(totals['bytes_to_peers'])} to peers",
        f"requests {totals['hits']} hits, {totals['misses']} misses",
    ]


def _cold_pulls(cold: dict[str, Any] | None) -> Iterable[str]:
    """What is fetched together with others; nothing of an older node, or of one that runs with --no-follow."""
    if cold is None:
        return
    yield (
        f"cold     {cold['leads']} led, {cold['follows']} sources followed, "
        f"{size(cold['growing_bytes'])} from layers in flight"
    )
    left = ", ".join(f"{count} for {reason}" for reason, count in cold["left_to_upstream"].items())
    if left:
        yield f"         left to upstream: {left}"
    own = cold["coordinator"]
    if own is not None:
        entries = f"{own['entries']} entries, {own['leads']} of them leads now"
        yield f"         coordinates {own['digests']} digests ({entries}); {own['leads_granted']} leads granted"
    if cold["now"]:
        yield ""
        yield from table([["NOW", "CONTENT", "HAS", "OF", "DEPTH", "FROM"], *map(_fetch, cold["now"])])


def _fetch(fetch: dict[str, Any]) -> list[str]:
    source = {"leads": "upstream", "waits": ""}.get(fetch["part"], fetch["source"])
    total = size(fetch["total"]) if fetch["total"] else "?"
    depth = str(fetch["depth"] or "?") if fetch["part"] == "follows" else ""
    return [fetch["part"], fetch["digest"][:19] or "?", size(fetch["offset"]), total, depth, source]


def _peers(peers: list[dict[str, Any]]) -> Iterable[str]:
    if not peers:
        return ["peers    none"]
    rows = [["PEER", "ADDRESS", "AGENT", "CONNECTED"]]
    for peer in peers:
        address = str(SocketAddress(peer["host"], peer["registry_port"]))
        rows.append([peer["peer_id"], address, peer["agent"], "yes" if peer["connected"] else "no"])
    return table(rows)


def _requests(requests: list[dict[str, Any]]) -> Iterable[str]:
    if not requests:
        return ["no requests yet"]
    rows = [["FOR", "CONTENT", "STATUS", "FROM", "BYTES", "SECONDS"]]
    for request in requests[-_SHOWN_REQUESTS:]:
        name = request["name"]
        short = name[:19] if ":" in name else name
        source = " -> ".join(request["providers"]) or request["source"]
        content = f"{request['registry']}/{request['repository']} {short}"
        who = "containerd" if request["handler"] == "mirror" else "peer"
        row = [who, content, str(request["status"]), source, size(request["size"]), f"{request['seconds']:.3f}"]
        rows.append(row)
    return table(rows)
