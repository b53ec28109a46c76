"""What a node and the coordinator of a digest say to each other, `<prefix>/follow/1.0.0`; codec.py has the wire.

A node sends Join, Renew or Leave, and each gets one answer on the same stream: Lead, Follow or Wait to a Join;
Keep, Follow (move) or Lead (take over) to a Renew; Keep to a Leave. Who the sender is and from which address it
comes, the coordinator knows from the connection, never from the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

KEY_LENGTH: Final = 32  # bytes: the sha2-256 of the key, where it lies in the keyspace


class Purpose(IntEnum):
    """Why a node joins."""

    FIRST = 1  # its containerd asks for this digest, and nothing of the answer went out yet
    RESUME = 2  # its source ended, stalled or failed in the middle


class Outcome(IntEnum):
    """How a node's pull of a digest ended."""

    COMMITTED = 1  # verified by its containerd: from now on it is a committed source
    VANISHED = 2  # the ingest is gone without a commit: cancelled, or the bytes were wrong
    GAVE_UP = 3  # not pulling it now: the request was put back in containerd's queue, or left to upstream unasked


@dataclass(frozen=True, slots=True)
class Peer:
    """A node: its raw peer id, where its registry listens (an IP address as text), and its zone."""

    id: bytes
    host: str
    port: int
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Join:
    """Who has, or fetches, this digest? `offset`: bytes that the sender's ingest holds; `total` 0: not known.

    `excluded`: peers that failed the sender in this pull. `burden`: leads that the sender has already and would
    rather not add to. `port` is that of the sender's registry. `busy`: peers that had no room a moment ago, or were
    not ahead of the sender: not to be named now, but no reason to lead beside them. `alone`: the coordinator that
    is closer to the key than the receiver did not answer the sender lately.
    """

    key: bytes
    offset: int = 0
    total: int = 0
    purpose: Purpose = Purpose.FIRST
    excluded: tuple[bytes, ...] = ()
    burden: int = 0
    port: int = 0
    zone: str = ""
    busy: tuple[bytes, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Renew:
    """The sender still fetches this digest. `source`: the peer that it follows, or empty: from upstream.

    `full`: its containerd takes no more bytes now, so that it cannot grow, and nobody else is to blame.
    `queued`: it leads, and other downloads of its node, which go on, come first: its containerd has not begun, or
    gets next to nothing of it meanwhile.
    """

    key: bytes
    offset: int
    total: int = 0
    source: bytes = b""
    excluded: tuple[bytes, ...] = ()
    port: int = 0
    zone: str = ""
    full: bool = False
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """The sender fetches this digest no longer."""

    key: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lead:
    """Fetch it from upstream: answer 404. The lead lapses after `milliseconds` without growth.

    `sole`: nobody else wants it, as far as the coordinator has heard. `unprovided`: nobody has all of it, and the
    coordinator would know: it keeps the key's provider records, and has done so for long enough.
    """

    milliseconds: int
    sole: bool = False
    unprovided: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A peer to take the bytes from. `offset`: what it held when last heard of; `depth`: hops from upstream."""

    peer: Peer
    offset: int
    depth: int
    committed: bool


@dataclass(frozen=True, slots=True)
class Follow:
    """Take it from one of these, best first. `depth`: that of the receiver, behind the first of them."""

    sources: tuple[Source, ...]
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many milliseconds: somebody is about to fetch it, or is better placed to lead."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Heard; go on as you do. `depth`: that of the receiver now, 0: its source is not known; renew next after
    `milliseconds`. `queued`: the lead above waits, and says why: no source is to blame."""

    depth: int = 0
    milliseconds: int = 500
    queued: bool = False


Ask = Join | Renew | Leave
Answer = Lead | Follow | Wait | Keep


def follow_protocol(prefix: str) -> str:
    """The protocol id for a prefix such as `/peili`."""
    return f"{prefix}/follow/1.0.0"
