from __future__ import annotations

from peili.http.limits import ClientLimits
from peili.http.message import SocketAddress
from peili.http.pool import IdlePool

ONE, OTHER = SocketAddress("10.0.0.1", 80), SocketAddress("10.0.0.2", 80)


def test_the_connection_used_last_is_taken_first() -> None:
    pool: IdlePool[str] = IdlePool(ClientLimits())
    for name in ("a", "b"):
        assert pool.put(ONE, name, 0.0) == []
    assert pool.take(OTHER) is None
    assert [pool.take(ONE), pool.take(ONE), pool.take(ONE)] == ["b", "a", None]


def test_an_address_keeps_so_many_and_the_oldest_goes() -> None:
    pool: IdlePool[str] = IdlePool(ClientLimits(idle_connections_per_address=2))
    pool.put(OTHER, "z", 0.0)
    assert [pool.put(ONE, name, 0.0) for name in ("a", "b", "c")] == [[], [], ["a"]]
    assert len(pool) == 3


def test_all_addresses_together_keep_so_many_and_the_oldest_goes() -> None:
    pool: IdlePool[str] = IdlePool(ClientLimits(idle_connections=2))
    pool.put(ONE, "a", 0.0)
    pool.put(OTHER, "b", 0.0)
    assert pool.put(OTHER, "c", 0.0) == ["a"]


def test_what_was_idle_too_long_is_closed() -> None:
    pool: IdlePool[str] = IdlePool(ClientLimits(idle_timeout=50.0))
    pool.put(ONE, "a", 0.0)
    pool.put(ONE, "b", 10.0)
    assert pool.expire(49.9) == []
    assert pool.expire(50.0) == ["a"]
    assert pool.take(ONE) == "b"


def test_an_address_can_be_forgotten_and_all_be_cleared() -> None:
    pool: IdlePool[str] = IdlePool(ClientLimits())
    for address, name in ((ONE, "a"), (OTHER, "b"), (ONE, "c")):
        pool.put(address, name, 0.0)
    assert pool.forget(ONE) == ["a", "c"]
    assert pool.clear() == ["b"]
    assert len(pool) == 0
