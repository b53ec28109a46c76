"""What can go wrong on the wire, and whose fault it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peili.libp2p.peer_id import PeerId


class Libp2pError(Exception):
    """Base of every error that leaves this room."""


class DialError(Libp2pError):
    """No connection could be made. `peer_id` is who answered, where somebody with another identity did."""

    def __init__(self, message: str, peer_id: PeerId | None = None) -> None:
        super().__init__(message)
        self.peer_id = peer_id


class SelfDial(DialError):
    """The address leads to this node itself; `peer_id` is our own."""


class CannotDial(DialError):
    """This node has no descriptor or no memory left for a connection: nothing is said of who was to be reached."""


class StreamError(Libp2pError):
    """A stream was reset, broke with its connection, was refused, or carried what it must not."""


class ProtocolNotSupported(StreamError):
    """The peer does not speak the protocol that was proposed for a stream."""


class BrokenConnection(Libp2pError):
    """The peer broke the rules of a layer below the streams, or went away; its connection ends."""
