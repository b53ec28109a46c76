"""Asking a bootstrap source for addresses: the thin part of bootstrap, with bounded time and size."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from peili.routing.bootstrap import (
    MAXIMUM_ADDRESSES,
    BootstrapAddress,
    DnsSource,
    FileSource,
    HttpSource,
    InvalidBootstrap,
    Source,
    StaticSource,
    parse_lines,
    parse_listing,
)

RESOLVE_TIMEOUT = 5.0  # seconds for one source
MAXIMUM_LISTING_BYTES = 256 * 1024  # of a file or an HTTP answer
# Name errors that mean: the name server answered, and there is no such address now.
_NO_ADDRESS = frozenset({getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}) - {socket.EAI_NONAME}

# Fetch a URL: (url, largest body in bytes) -> body. Raises OSError for what goes wrong.
Fetch = Callable[[str, int], Awaitable[bytes]]


class BootstrapFailed(Exception):
    """A source gave no addresses; the text names the source and says why, for the operator."""


async def resolve(source: Source, default_port: int, fetch: Fetch) -> list[BootstrapAddress]:
    """The addresses that the source names now, each once, at most MAXIMUM_ADDRESSES; raise BootstrapFailed.

    An empty list means that the source answered, and knows nobody.
    """
    try:
        with trio.fail_after(RESOLVE_TIMEOUT):
            found = await _ask(source, default_port, fetch)
    except trio.TooSlowError as error:
        raise BootstrapFailed(f"{source}: no answer within {RESOLVE_TIMEOUT:g} s") from error
    except socket.gaierror as error:
        raise BootstrapFailed(f"{source}: the name cannot be resolved: {error.strerror}") from error
    except OSError as error:
        raise BootstrapFailed(f"{source}: {error.strerror or error}") from error
    except InvalidBootstrap as error:
        raise BootstrapFailed(f"{source}: {error}") from error
    return list(dict.fromkeys(found))[:MAXIMUM_ADDRESSES]


async def _ask(source: Source, default_port: int, fetch: Fetch) -> list[BootstrapAddress]:
    match source:
        case StaticSource(addresses):
            return list(addresses)
        case DnsSource(name, port):
            return await _look_up(name, default_port if port is None else port)
        case FileSource(path):
            return parse_lines(await trio.to_thread.run_sync(_read_text, path, abandon_on_cancel=True))
        case HttpSource(url):
            return parse_listing(await fetch(url, MAXIMUM_LISTING_BYTES))


async def _look_up(name: str, port: int) -> list[BootstrapAddress]:
    try:
        answers = await trio.socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_ADDRESS:
            return []
        raise
    except UnicodeError as error:  # a label that IDNA cannot encode
        raise InvalidBootstrap(f"not a DNS name: {error}") from error
    return [BootstrapAddress(str(answer[4][0]).partition("%")[0], port) for answer in answers]


def _read_text(path: str) -> str:
    with Path(path).open("rb") as file:
        content = file.read(MAXIMUM_LISTING_BYTES + 1)
    if len(content) > MAXIMUM_LISTING_BYTES:
        raise InvalidBootstrap(f"the file is larger than {MAXIMUM_LISTING_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidBootstrap("the file is not UTF-8 text") from error
