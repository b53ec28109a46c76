"""One GET of a small answer, over http or https: the HTTP kind of bootstrap.

Not peili.http's client: that one is made for bodies that go from socket to socket, speaks no TLS, and refuses an
answer without a length, which any web server may send here.
"""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

READ_SIZE: Final = 16 * 1024  # bytes
MAXIMUM_HEAD: Final = 32 * 1024  # bytes
CLOSE_TIMEOUT: Final = 0.5  # seconds
_PORTS: Final = {"http": 80, "https": 443}


async def fetch(url: str, limit: int) -> bytes:
    """The body that this URL answers with; redirects are not followed. Raise OSError; the caller times it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    stream: trio.abc.Stream
    if parts.scheme == "https":
        stream = await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True)
    else:
        stream = await trio.open_tcp_stream(host, port)
    try:
        return await _exchange(stream, parts.netloc, target, limit)
    except h11.ProtocolError as error:
        raise OSError(f"the answer is not HTTP: {error}") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
        raise OSError(f"the connection broke: {error.__cause__ or error}") from error
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT):
            await trio.aclose_forcefully(stream)


async def _exchange(stream: trio.abc.Stream, host: str, target: str, limit: int) -> bytes:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAXIMUM_HEAD)
    headers = [("Host", host), ("Accept", "application/json"), ("Connection", "close")]
    request = connection.send(h11.Request(method="GET", target=target, headers=headers))
    await stream.send_all(request + connection.send(h11.EndOfMessage()))
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(READ_SIZE)))
        elif isinstance(event, h11.Response) and event.status_code != 200:
            raise OSError(f"the answer is {event.status_code} {event.reason.decode('latin-1')[:80]}")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit:
                raise OSError(f"the answer has more than {limit} bytes")
        elif not isinstance(event, h11.InformationalResponse | h11.Response):
            return bytes(body)
