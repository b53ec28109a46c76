"""The iterative lookup as a pure state machine, for FIND_NODE and GET_PROVIDERS alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from peili.kademlia.contact import Contact


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """Times in seconds."""

    k: int = 20
    alpha: int = 4  # requests in flight that are not slow
    most_in_flight: int = 20  # slow ones included
    slow_after: float = 0.01  # then a request no longer counts against alpha: one more peer is asked
    patience: float = 0.04  # then it no longer keeps the lookup from ending, if enough others answered
    timeout: float = 1.0  # then it failed
    enough_answers: int = 3  # of the closest, that let a lookup end in a full view or past its patience


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the request to these peers now, then call next_step again."""

    peers: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until this time, or until an answer or a failure comes."""

    until: float


@dataclass(frozen=True, slots=True)
class Done:
    """The lookup is over."""


Step = Ask | Wait | Done


class Lookup:
    """One lookup. Feed it with `answered` and `failed`, and do what `next_step` says."""

    def __init__(
        self,
        target: int,
        seeds: Iterable[Contact],
        own_id: bytes,
        settings: LookupSettings | None = None,
        *,
        sees_everybody: bool = False,
        is_suspect: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        raise NotImplementedError

    def next_step(self, now: float) -> Step:
        """What to do now. Peers in an Ask count as asked at `now`."""
        raise NotImplementedError

    def answered(
        self, peer_id: bytes, closer: Sequence[Contact], now: float, providers: Sequence[Contact] = ()
    ) -> list[Contact]:
        """An answer came. Returns the providers that are new in it, this node never among them."""
        raise NotImplementedError

    def failed(self, peer_id: bytes, now: float) -> None:
        """The request failed: refused, broken, invalid or timed out."""
        raise NotImplementedError

    def stop(self) -> None:
        """The caller has enough: the next step is Done."""
        raise NotImplementedError

    def overdue(self, now: float) -> list[bytes]:
        """Peers asked longer than `slow_after` ago without an answer, for `RoutingTable.failed` when it ends."""
        raise NotImplementedError

    def closest(self, count: int = 20) -> list[Contact]:
        """Those that answered, nearest first."""
        raise NotImplementedError

    def known(self) -> list[Contact]:
        """Everybody met who did not fail, nearest first."""
        raise NotImplementedError
