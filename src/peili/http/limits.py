"""The bounds of the server and of the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peili.http.stages import Way


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server spends at most. Times in seconds, sizes in bytes."""

    connections: int = 4096
    connections_per_client: int = 1024
    head_bytes: int = 16384  # the head of a request
    head_timeout: float = 10.0  # from the first byte of a head to its last, and the same for a body we discard
    body_bytes: int = 65536  # a request's body, which is read and thrown away; a longer one ends the connection
    idle_timeout: float = 75.0  # no request on an open connection
    write_timeout: float = 300.0  # no byte goes into a client's socket
    linger_timeout: float = 5.0  # after our FIN, for the client to finish
    linger_bytes: int = 1024 * 1024  # what a client may still send after our FIN


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What the client spends at most. Times in seconds, sizes in bytes."""

    head_bytes: int = 16384  # the head of an answer
    idle_connections: int = 256  # kept open in all
    idle_connections_per_address: int = 8
    idle_timeout: float = 50.0  # shorter than the server's 75 s, so that we close first


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A snapshot for metrics. The first three are now, the others since the start."""

    connections: int
    clients: int
    in_flight: int
    requests: int
    accepted: int
    refused: int  # over one of the caps
    bad_requests: int
    accept_errors: int  # accept failed, for lack of file descriptors or memory
    relayed: Mapping[Way, int] = field(default_factory=dict)  # bytes, from a source into a client


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """A snapshot for metrics. `idle` is now, the others since the start."""

    idle: int
    connected: int  # new connections
    reused: int  # requests on a kept one
    retried: int  # a kept connection was dead, and a new one was made
