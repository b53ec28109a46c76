"""The iterative lookup as a pure state machine, for FIND_NODE and GET_PROVIDERS alike.

The caller asks `next_step`, does it, and reports with `answered` and `failed` (kad-dht specification, sections Peer
routing and Content provider lookup). Three things differ from the textbook, for the sake of frozen and lying nodes:
a slow request is hedged by one more instead of being waited for; a peer whose word led to failures is believed no
longer, and until proven it supplies only a part of what is asked at once; suspects are a last resort.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from peili.kademlia.candidate import MAX_SOURCES, Candidate, Source, State, is_unproven
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import position

MAX_CANDIDATES: Final = 400  # of one lookup; the farthest unasked goes first
MAX_ASKED: Final = 200  # requests of one lookup, whatever others name
MAX_PROVIDERS: Final = 1000  # of one lookup


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """How a lookup hurries. Times in seconds."""

    k: int = 20  # the lookup ends when this many of the nearest answered
    enough_answers: int = 3  # instead of k where everybody is seen; below it, last resorts are asked
    alpha: int = 4  # requests in flight that are not slow
    most_in_flight: int = 20  # slow ones included
    from_one_source: int = 2  # of those in flight, named by one unproven peer; failures, to believe it no longer
    slow_after: float = 0.01  # then a request neither counts against alpha nor keeps the lookup from ending
    patience: float = 0.04  # how long slow ones are waited for when nobody else is left and somebody answered
    timeout: float = 1.0  # then it failed

    @classmethod
    def measured(cls, round_trip: float, alpha: int = 4) -> LookupSettings:
        """Settings for a network whose requests mostly (90 %) return within `round_trip` seconds."""
        return cls(
            alpha=max(3, min(alpha, 10)),
            slow_after=min(max(3 * round_trip, 0.005), 0.5),
            patience=min(max(10 * round_trip, 0.03), 1.0),
            timeout=min(max(30 * round_trip, 1.0), 5.0),
        )


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
    """The lookup is over. Let requests in flight run on to their timeout, for what they say about their peers.

    Who fails then is for `RoutingTable.failed`; else every lookup would meet the same frozen peers again.
    """


Step = Ask | Wait | Done


class Lookup:
    """One lookup for a position. Seeds are `RoutingTable.seeds(target)`.

    `sees_everybody` is for GET_PROVIDERS in a small network: a few answers are enough then, unless one of them
    names a stranger. Lookups that fill the table or place records ask all of the k closest. `spared`: ids of seeds
    that the caller asks by another way; they count as if they had answered.
    """

    def __init__(
        self,
        target: int,
        seeds: Iterable[Contact],
        own_id: bytes,
        settings: LookupSettings | None = None,
        *,
        sees_everybody: bool = False,
        spared: Collection[bytes] = (),
        is_suspect: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._target = target
        self._own_id = own_id
        self._settings = settings or LookupSettings()
        self._needed = self._settings.enough_answers if sees_everybody else self._settings.k
        self._is_suspect = is_suspect
        self._candidates: dict[bytes, Candidate] = {}
        self._order: list[Candidate] = []  # nearest first
        self._in_flight: dict[bytes, Candidate] = {}
        self._providers: dict[bytes, Contact] = {}
        self._stopped = False
        self._answers = 0
        self.asked = 0
        """Requests so far."""
        self.hops = 0
        """The longest chain of peers that named each other and answered."""
        self._meet(seeds, None, 0)
        for peer_id in spared:
            if (candidate := self._candidates.get(peer_id)) is not None and not candidate.suspect:
                candidate.state = State.ANSWERED
                self._answers += 1

    # What to do

    def next_step(self, now: float) -> Step:
        """What to do now. Peers in an Ask count as asked at `now`."""
        for candidate in list(self._in_flight.values()):
            if now >= candidate.asked_at + self._settings.timeout:
                self._fail(candidate)
        if self._stopped:
            return Done()
        wanted, unanswered = self._nearest(now)
        chosen = self._choose(wanted, now)
        if chosen:
            for candidate in chosen:
                candidate.state, candidate.asked_at = State.ASKED, now
                self._in_flight[candidate.contact.id] = candidate
            self.asked += len(chosen)
            return Ask(tuple(candidate.contact for candidate in chosen))
        if not unanswered or not self._in_flight or self._out_of_patience(now):
            return Done()
        return Wait(min(self._next_change(candidate, now) for candidate in self._in_flight.values()))

    def _nearest(self, now: float) -> tuple[list[Candidate], bool]:
        """Whom to ask of the nearest that count, and whether an answer of theirs is still missing.

        Failed, slow and doubtful peers are passed over, so that the next nearest takes their place, and so are
        those beyond the first two on one unproven peer's word: as good as disjoint paths against a liar who names
        twenty invented peers, and it costs nothing.
        """
        wanted: list[Candidate] = []
        unproven: list[Source] = []
        counted = answered = 0
        for candidate in self._order:
            if counted >= self._needed:
                break
            if candidate.state is State.ANSWERED:
                answered += 1
            elif not self._is_hopeful(candidate, now):
                continue
            elif is_unproven(candidate.sources):
                source = min(candidate.sources, key=unproven.count)
                if unproven.count(source) >= self._settings.from_one_source:
                    continue
                unproven.append(source)
            if candidate.state is State.UNASKED:
                wanted.append(candidate)
            counted += 1
        if not wanted and self._answers < self._settings.enough_answers and not self._quick(now):
            wanted = [c for c in self._order if c.state is State.UNASKED]  # the last resorts
        return wanted, answered < self._needed

    def _choose(self, wanted: list[Candidate], now: float) -> list[Candidate]:
        """The nearest of those wanted, as many as alpha and the other limits allow."""
        settings = self._settings
        in_flight = min(settings.alpha - len(self._quick(now)), settings.most_in_flight - len(self._in_flight))
        return wanted[: max(0, min(in_flight, MAX_ASKED - self.asked))]

    def _quick(self, now: float) -> list[Candidate]:
        return [candidate for candidate in self._in_flight.values() if not self._is_slow(candidate, now)]

    def _is_slow(self, candidate: Candidate, now: float) -> bool:
        return now >= candidate.asked_at + self._settings.slow_after

    def _is_hopeful(self, candidate: Candidate, now: float) -> bool:
        """Whether an answer of this peer, asked or not yet asked, is worth waiting for."""
        if candidate.state is State.ASKED:
            return not self._is_slow(candidate, now)
        if candidate.state is not State.UNASKED or candidate.suspect:
            return False
        return not candidate.sources or any(self._is_believed(source, now) for source in candidate.sources)

    def _is_believed(self, source: Source, now: float) -> bool:
        """Whether a peer's word is worth following: not after it led to failures, or to slow peers."""
        slow = sum(source in other.sources and self._is_slow(other, now) for other in self._in_flight.values())
        return slow - source.score < self._settings.from_one_source

    def _out_of_patience(self, now: float) -> bool:
        """Whether somebody answered and only late ones are waited for; with no answer, the timeout counts."""
        limit = now - self._settings.patience
        return self._answers > 0 and all(candidate.asked_at <= limit for candidate in self._in_flight.values())

    def _next_change(self, candidate: Candidate, now: float) -> float:
        """When waiting for this request starts to mean something else."""
        settings = self._settings
        changes = (candidate.asked_at + limit for limit in (settings.slow_after, settings.patience))
        return min((change for change in changes if change > now), default=candidate.asked_at + settings.timeout)

    # What happened

    def answered(
        self, peer_id: bytes, closer: Sequence[Contact], now: float, providers: Sequence[Contact] = ()
    ) -> list[Contact]:
        """An answer came. Returns the providers that are new in it, this node never among them.

        Counted also after its timeout, and after Done; an answer of a peer that was not asked says nothing.
        """
        candidate = self._candidates.get(peer_id)
        if candidate is None or candidate.state in (State.UNASKED, State.ANSWERED):
            return []
        for source in candidate.sources:
            source.score += 1
        self._in_flight.pop(peer_id, None)
        candidate.state = State.ANSWERED
        self._answers += 1
        self.hops = max(self.hops, candidate.hops)
        self._meet(closer[: self._settings.k], Source(), candidate.hops + 1)
        return list(self._new_providers(providers))

    def failed(self, peer_id: bytes, now: float) -> None:
        """The request failed: refused, broken, invalid or timed out."""
        candidate = self._in_flight.get(peer_id)
        if candidate is not None:
            self._fail(candidate)

    def stop(self) -> None:
        """The caller has enough: the next step is Done."""
        self._stopped = True

    def _fail(self, candidate: Candidate) -> None:
        candidate.state = State.FAILED
        del self._in_flight[candidate.contact.id]
        for source in candidate.sources:
            source.score -= 1

    def _meet(self, contacts: Iterable[Contact], source: Source | None, hops: int) -> None:
        """Peers that the table or an answer named. Each that names a peer vouches for it."""
        for contact in contacts:
            known = self._candidates.get(contact.id)
            if known is not None:
                self._vouch(known, source)
                continue
            if contact.id == self._own_id or not contact.id:
                continue
            where = position(contact.id) ^ self._target
            candidate = Candidate(contact, where, [source] if source else [], hops, self._is_suspect(contact.id))
            if source is not None and not candidate.suspect:
                self._needed = self._settings.k  # so not everybody was seen
            self._candidates[contact.id] = candidate
            insort(self._order, candidate, key=lambda other: other.distance)
        self._forget_the_farthest()

    def _vouch(self, known: Candidate, source: Source | None) -> None:
        """One more names a peer; liars may name the same ones, so each is judged by what came of its word."""
        if source is None or source in known.sources:
            return
        if known.sources and len(known.sources) < MAX_SOURCES:
            known.sources.append(source)
        if known.state is State.ANSWERED:
            source.score += 1
        elif known.state is State.FAILED:
            source.score -= 1

    def _forget_the_farthest(self) -> None:
        excess = len(self._order) - MAX_CANDIDATES
        if excess <= 0:
            return
        unasked = [candidate for candidate in self._order if candidate.state is State.UNASKED]
        for candidate in unasked[-excess:]:
            self._order.remove(candidate)
            del self._candidates[candidate.contact.id]

    def _new_providers(self, providers: Sequence[Contact]) -> Iterator[Contact]:
        """Each provider once, and once more when its addresses come after its name."""
        for provider in providers:
            known = self._providers.get(provider.id)
            if provider.id in {self._own_id, b""} or (known is None and len(self._providers) >= MAX_PROVIDERS):
                continue
            if known is None or (provider.addresses and not known.addresses):
                self._providers[provider.id] = provider
                yield provider

    # What came of it

    def closest(self, count: int = 20) -> list[Contact]:
        """Those that answered, nearest first."""
        return [candidate.contact for candidate in self._order if candidate.state is State.ANSWERED][:count]

    def unreached(self, count: int = 20) -> list[Contact]:
        """Those of the nearest met that others named, and that have not answered (yet), nearest first."""
        return [c.contact for c in self._order[:count] if c.sources and c.state is not State.ANSWERED]

    def known(self) -> list[Contact]:
        """Everybody met who answered or was not asked, without suspects, nearest first: hints, for planning."""
        hopeful = (State.UNASKED, State.ANSWERED)
        return [c.contact for c in self._order if c.state in hopeful and not c.suspect]

    @property
    def providers(self) -> list[Contact]:
        """The providers found so far."""
        return list(self._providers.values())
