"""The latest requests and the sums since the start, for `peili status`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from peili.oci.digest import Digest
from peili.registry.record import ByteSource, Handler, Outcome, RequestRecord

RECENT_REQUESTS = 50
# Misses whose bytes are still awaited from upstream; an image has some tens of layers.
MAXIMUM_AWAITED = 4096


@dataclass(slots=True)
class Totals:
    """Sums since the start, in requests and bytes."""

    hits: int = 0
    misses: int = 0
    bytes_from_peers: int = 0
    bytes_from_local: int = 0
    bytes_to_peers: int = 0
    bytes_from_upstream: int = 0


class Recent:
    """Keeps the last RECENT_REQUESTS requests for content, and sums."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._requests: deque[RequestRecord] = deque(maxlen=RECENT_REQUESTS)
        self._awaited: dict[str, None] = {}

    def request(self, record: RequestRecord) -> None:
        """Note one answered request."""
        if record.handler not in (Handler.MIRROR, Handler.SERVE):
            return
        self._requests.append(record)
        if record.handler is Handler.SERVE:
            self.totals.bytes_to_peers += record.size
            return
        self.totals.hits += record.outcome is Outcome.HIT
        self.totals.misses += record.outcome is Outcome.MISS
        self.totals.bytes_from_peers += record.size if record.source is ByteSource.PEER else 0
        self.totals.bytes_from_local += record.size if record.source is ByteSource.LOCAL else 0
        if record.outcome is Outcome.MISS and record.method == "GET":
            self._await(record.name)

    def arrived(self, digest: Digest, size: int) -> bool:
        """Content came into the store; whether it was missed here before, and so was fetched upstream."""
        if str(digest) not in self._awaited:
            return False
        del self._awaited[str(digest)]
        self.totals.bytes_from_upstream += size
        return True

    def requests(self) -> list[RequestRecord]:
        """The latest requests, the newest last."""
        return list(self._requests)

    def _await(self, name: str) -> None:
        self._awaited[name] = None
        while len(self._awaited) > MAXIMUM_AWAITED:
            del self._awaited[next(iter(self._awaited))]
