"""Bytes into a client's socket, and how long to wait for one. Non-blocking sockets, driven by readiness.

`account` is told of every byte when the socket has taken it, so that the count is exact however a call ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import trio

from peili.http.errors import SinkClosed

CHUNK: Final = 1024 * 1024  # bytes between two turns of the event loop, at most

Account = Callable[[int], None]
Data = bytes | bytearray | memoryview


async def send_all(fileno: int, data: Data, account: Account, write_timeout: float) -> None:
    """Send bytes from memory; raise SinkClosed."""
    view = memoryview(data)
    while view:
        try:
            sent = os.write(fileno, view[:CHUNK])
        except BlockingIOError:
            await wait_for_sink(fileno, write_timeout)
            continue
        except OSError as error:
            raise sink_closed(error) from error
        account(sent)
        view = view[sent:]
    await trio.lowlevel.checkpoint()


async def send_together(fileno: int, head: bytes, body: Data, account: Account, write_timeout: float) -> None:
    """Send a head and its body in one piece, without joining them in memory (writev(2)); raise SinkClosed.

    A reader that stops would keep the copy in memory as long as the body itself.
    """
    view = memoryview(body)
    try:
        sent = os.writev(fileno, (head, view[:CHUNK]))
    except BlockingIOError:
        sent = 0
    except OSError as error:
        raise sink_closed(error) from error
    account(sent)
    if sent < len(head):
        await send_all(fileno, memoryview(head)[sent:], account, write_timeout)
    await send_all(fileno, view[max(0, sent - len(head)) :], account, write_timeout)


async def wait_for_sink(fileno: int, write_timeout: float, deadline: float | None = None) -> None:
    """Wait until a socket takes bytes again; raise SinkClosed when it does not in time.

    `deadline`: by trio's clock, where a part of that time is over.
    """
    with trio.move_on_at(trio.current_time() + write_timeout if deadline is None else deadline):
        await trio.lowlevel.wait_writable(fileno)
        return
    raise SinkClosed(f"the client took nothing for {write_timeout:g} s")


def sink_closed(error: OSError) -> SinkClosed:
    """What a failure to write into a client's socket is to the caller."""
    return SinkClosed(f"the client went away: {error.strerror or error}")
