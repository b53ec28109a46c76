"""Provider records kept for others, packed (kad-dht specification, Content provider advertisement).

A record is 40 bytes: the key's digest (32), the provider's index (4), the second it expires (4). Records lie in
SHARDS byte arrays by Python's keyed hash of the digest, which nobody outside can steer, and are searched there with
bytearray.find: some 50 records each in a large cluster. 200,000 records are about 9 MB; as tuples they were 53.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from struct import Struct
from typing import Final

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import DIGEST_LENGTH
from peili.kademlia.providers import Provider, Providers

EXPIRATION_INTERVAL: Final = 20 * 60  # seconds a record lives; told again every 10 minutes (republish.py)
ANSWER_PROVIDERS: Final = 20  # of an answer, chosen at random
MAX_PROVIDERS_OF_KEY: Final = 100
MAX_RECORDS: Final = 400_000  # in total: 18 MB
MAX_RECORDS_OF_PROVIDER: Final = 40_000  # four times the largest node that is planned for
SHARDS: Final = 4096
SWEPT_SHARDS: Final = 32  # of one `sweep`: the whole in two minutes when it is called every second
_EVICTION_TRIES: Final = 16

_TAIL = Struct("=II")  # provider index, expiry; native order, as memoryview.cast reads it
_RECORD: Final = DIGEST_LENGTH + _TAIL.size
_WORDS: Final = _RECORD // 4
_INDEX_WORD, _EXPIRY_WORD = DIGEST_LENGTH // 4, DIGEST_LENGTH // 4 + 1


@dataclass(frozen=True, slots=True)
class RecordStatistics:
    """A snapshot."""

    records: int
    providers: int
    bytes: int  # of the packed records


class ProviderRecords:
    """Who provides what, as others said it. Keys are 32-byte digests (keyspace.key_digest)."""

    def __init__(
        self,
        max_records: int = MAX_RECORDS,
        max_of_provider: int = MAX_RECORDS_OF_PROVIDER,
        random: Random | None = None,
    ) -> None:
        self._max_records = max_records
        self._max_of_provider = max_of_provider
        self._random = random or Random(0)  # chooses victims of evictions only
        self._shards: list[bytearray | None] = [None] * SHARDS
        self._providers = Providers()
        self._count = 0
        self._greediest: Provider | None = None
        self._evicted = 0  # records that made room for those of others
        self._swept = 0  # the next shard to sweep
        self._epoch: float | None = None  # `now` of the first call: expiries are seconds since then
        self._incomplete_until = 0.0  # a record was not kept, and would have lived until then

    def _second(self, now: float) -> int:
        if self._epoch is None:
            self._epoch = now
        return max(0, min(int(now - self._epoch), 0xFFFF_0000))

    # What others say

    def add(self, provider: Contact, keys: Iterable[bytes], now: float, ttl: float = EXPIRATION_INTERVAL) -> int:
        """The provider says it has these keys; returns how many were kept. ttl is cut to EXPIRATION_INTERVAL.

        Full means: this provider has max_of_provider records, or there are max_records and it has its fair share
        of them. Below its share it displaces a record of the greediest, so a flood by some cannot push out others.
        """
        entry, told = self._providers.take_in(provider), [key for key in keys if len(key) == DIGEST_LENGTH]
        if entry is None:
            self._incomplete_until = now + EXPIRATION_INTERVAL
            return 0
        now_second, evicted = self._second(now), self._evicted
        expiry = now_second + max(0, int(min(ttl, EXPIRATION_INTERVAL)))
        kept = sum(self._add_one(entry, key, now_second, expiry) for key in told)
        self._providers.let_go(entry)
        if kept < len(told) or self._evicted > evicted:
            self._incomplete_until = now + EXPIRATION_INTERVAL
        return kept

    def _add_one(self, entry: Provider, key: bytes, now_second: int, expiry: int) -> bool:
        number = hash(key) % SHARDS
        shard = self._shards[number]
        if shard is None:
            shard = self._shards[number] = bytearray()
        tail = _TAIL.pack(entry.index, expiry)
        at = _find(shard, key + tail[:4])
        if at >= 0:
            shard[at + DIGEST_LENGTH : at + _RECORD] = tail
            return True
        if entry.records >= self._max_of_provider:
            return False
        others = list(_offsets(shard, key))
        if len(others) >= MAX_PROVIDERS_OF_KEY:
            self._drop(shard, self._least_useful(shard, others))
        elif not self._has_room(entry):
            return False
        shard += key + tail
        entry.records += 1
        self._count += 1
        return True

    def _least_useful(self, shard: bytearray, offsets: list[int]) -> int:
        """Which provider of a full key makes room: one that left or is suspect, else the longest silent."""

        def usefulness(at: int) -> tuple[bool, int]:
            index, expiry = _TAIL.unpack_from(shard, at + DIGEST_LENGTH)
            return self._providers.is_answerable(index), expiry

        return min(offsets, key=usefulness)

    def _has_room(self, entry: Provider) -> bool:
        """Whether there is room in total, or there is after a greedier provider lost a record."""
        if self._count < self._max_records:
            return True
        share = self._max_records // len(self._providers)
        if entry.records >= share:
            return False
        greediest = self._greediest
        if greediest is None or greediest.records <= share:
            greediest = self._greediest = self._providers.greediest()
        return self._evict_from(greediest)

    def _evict_from(self, greediest: Provider) -> bool:
        """Drop one record of the provider with the most; it has many, so a few random shards hold one."""
        for _ in range(_EVICTION_TRIES):
            shard = self._shards[self._random.randrange(SHARDS)]
            indexes = _words(shard, _INDEX_WORD) if shard else []
            if shard and greediest.index in indexes:
                self._drop(shard, indexes.index(greediest.index) * _RECORD)
                self._evicted += 1
                return True
        return False

    def withdraw(self, provider_id: bytes, keys: Iterable[bytes]) -> int:
        """These keys are no longer provided by this peer; returns how many records went."""
        entry = self._providers.get(provider_id)
        if entry is None:
            return 0
        index = _TAIL.pack(entry.index, 0)[:4]
        gone = 0
        for key in keys:
            shard = self._shards[hash(key) % SHARDS]
            at = _find(shard, key + index) if shard and len(key) == DIGEST_LENGTH else -1
            if shard and at >= 0:
                self._drop(shard, at)
                gone += 1
        return gone

    def goodbye(self, provider_id: bytes) -> None:
        """All records of the peer go, at once for every reader; their memory comes back with the sweep."""
        self._providers.goodbye(provider_id)

    def suspect(self, provider_id: bytes) -> None:
        """Leave this provider out of answers until `heard`, or until it adds a record."""
        self._providers.set_suspect(provider_id, suspect=True)

    def heard(self, provider_id: bytes) -> None:
        """The provider is alive."""
        self._providers.set_suspect(provider_id, suspect=False)

    # What they get to know

    def get(self, key: bytes, now: float, random: Random, count: int = ANSWER_PROVIDERS) -> list[Contact]:
        """At most `count` random live providers of a key; suspects are left out."""
        shard = self._shards[hash(key) % SHARDS]
        if not shard or len(key) != DIGEST_LENGTH:
            return []
        second = self._second(now)
        found = []
        for at in _offsets(shard, key):
            index, expiry = _TAIL.unpack_from(shard, at + DIGEST_LENGTH)
            if expiry > second and self._providers.is_answerable(index):
                found.append(index)
        chosen = random.sample(found, min(count, len(found)))
        return [self._providers.contact(index) for index in chosen]

    def names_nobody(self, key: bytes, now: float) -> bool:
        """Whether nobody has said that it has the key, suspects neither; False where there was no room for all."""
        shard = self._shards[hash(key) % SHARDS]
        if now < self._incomplete_until or len(key) != DIGEST_LENGTH:
            return False
        second = self._second(now)
        records = (_TAIL.unpack_from(shard, at + DIGEST_LENGTH) for at in _offsets(shard, key)) if shard else ()
        return all(expiry <= second or self._providers.is_gone(index) for index, expiry in records)

    @property
    def live(self) -> int:
        """How many records there are. Those of who left are dead, though their memory comes back with the sweep."""
        return self._count - self._providers.dead_records()

    def statistics(self) -> RecordStatistics:
        """A snapshot."""
        used = sum(shard.__sizeof__() for shard in self._shards if shard is not None)
        return RecordStatistics(self.live, len(self._providers), used + 8 * SHARDS)

    # Expiry

    def sweep(self, now: float) -> int:
        """Drop expired records in one slice of the memory; call it every second. Returns how many went."""
        second = self._second(now)
        before = self._count
        for _ in range(SWEPT_SHARDS):
            shard = self._shards[self._swept]
            if shard is not None:
                self._sweep_shard(shard, second)
                if not shard:
                    self._shards[self._swept] = None
            self._swept = (self._swept + 1) % SHARDS
        return before - self._count

    def _sweep_shard(self, shard: bytearray, second: int) -> None:
        indexes, expiries = _words(shard, _INDEX_WORD), _words(shard, _EXPIRY_WORD)
        for number in range(len(indexes) - 1, -1, -1):  # backwards: a dropped one is replaced by the last
            if expiries[number] <= second or self._providers.is_gone(indexes[number]):
                self._drop(shard, number * _RECORD)

    def _drop(self, shard: bytearray, at: int) -> None:
        """Put the last record in this one's place."""
        index = _TAIL.unpack_from(shard, at + DIGEST_LENGTH)[0]
        shard[at : at + _RECORD] = shard[-_RECORD:]
        del shard[-_RECORD:]
        self._count -= 1
        self._providers.lost_record(index)


def _offsets(shard: bytearray, start: bytes) -> Iterator[int]:
    """Where records begin with these bytes. A digest may by chance or by intent contain them elsewhere."""
    at = shard.find(start)
    while at >= 0:
        if at % _RECORD == 0:
            yield at
        at = shard.find(start, at + 1)


def _words(shard: bytearray, which: int) -> list[int]:
    """One number of every record, in their order."""
    with memoryview(shard) as view, view.cast("I") as words, words[which::_WORDS] as column:
        return column.tolist()


def _find(shard: bytearray, start: bytes) -> int:
    return next(_offsets(shard, start), -1)
