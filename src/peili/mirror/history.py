"""What is remembered of providers: how fast they answered, and who failed lately. Pure; times are the caller's."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

MAXIMUM_PROVIDERS = 2048
_SAMPLES = 20
_QUANTILE = 0.9
# A hedge is worth it only against a provider that is slow for a peer in the same cluster: never sooner than 10 ms
# (it would double all traffic of a busy node), never later than 250 ms (the pull would feel it).
SHORTEST_HEDGE = 0.010
LONGEST_HEDGE = 0.250
UNKNOWN_HEDGE = 0.050
# How long a provider that failed is asked last: doubled with each failure in a row.
FIRST_PENALTY = 5.0
LONGEST_PENALTY = 120.0
# A provider with all its uploads in use did nothing wrong, and may have a place again at any moment.
BUSY_PENALTY = 1.0


@dataclass(slots=True)
class _Memory:
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    failures: int = 0
    failed_until: float = 0.0
    busy_until: float = 0.0


class History:
    """Of each provider (by its peer id): the latest times to an answer's head, in seconds, and its failures."""

    def __init__(self) -> None:
        self._providers: OrderedDict[str, _Memory] = OrderedDict()

    def answered(self, peer_id: str, seconds: float) -> None:
        """The provider answered after so many seconds; its failures are forgiven."""
        memory = self._of(peer_id)
        memory.latencies.append(seconds)
        memory.failures = 0
        memory.failed_until = memory.busy_until = 0.0

    def failed(self, peer_id: str, now: float) -> None:
        """The provider failed: it is suspect for a while, longer with each failure in a row.

        What fails before that while is over, of many requests at once say, is the same failure.
        """
        memory = self._of(peer_id)
        if now < memory.failed_until:
            return
        penalty = min(FIRST_PENALTY * 2.0 ** min(memory.failures, 10), LONGEST_PENALTY)
        memory.failures += 1
        memory.failed_until = now + penalty

    def busy(self, peer_id: str, now: float) -> None:
        """The provider has no place for another upload: it is asked last for a short moment, and no failure."""
        memory = self._of(peer_id)
        memory.busy_until = now + BUSY_PENALTY

    def is_suspect(self, peer_id: str, now: float) -> bool:
        """Whether the provider failed lately, or was busy a moment ago."""
        memory = self._providers.get(peer_id)
        return memory is not None and now < max(memory.failed_until, memory.busy_until)

    def hedge_after(self, peer_id: str) -> float:
        """Seconds after which a second provider is asked beside this one: the 90th percentile of its past.

        Dean and Barroso, The Tail at Scale (2013): a second request that late costs a few percent of traffic and
        takes the slowest answers away.
        """
        memory = self._providers.get(peer_id)
        if memory is None or not memory.latencies:
            return UNKNOWN_HEDGE
        ordered = sorted(memory.latencies)
        slow = ordered[min(int(len(ordered) * _QUANTILE), len(ordered) - 1)]
        return min(max(slow, SHORTEST_HEDGE), LONGEST_HEDGE)

    def _of(self, peer_id: str) -> _Memory:
        memory = self._providers.get(peer_id)
        if memory is None:
            memory = self._providers[peer_id] = _Memory()
            if len(self._providers) > MAXIMUM_PROVIDERS:
                self._providers.popitem(last=False)
        self._providers.move_to_end(peer_id)
        return memory
