from __future__ import annotations

import pytest
import trio
import trio.testing

from peili.oci.digest import Digest
from peili.oci.key import Key, digest_key
from peili.store.changes import Subscriptions
from peili.store.index import Evidence, StoreIndex
from peili.store.protocol import Added, Change, Removed

A, B, C = Key("a"), Key("b"), Key("c")


def keys(*names: Key) -> frozenset[Key]:
    return frozenset(names)


async def test_the_first_item_comes_even_when_it_is_empty() -> None:
    async with Subscriptions().open([]) as changes:
        assert await anext(changes) == Added(keys())


async def test_the_first_item_includes_what_came_before_it_was_read() -> None:
    subscriptions = Subscriptions()
    async with subscriptions.open([A, B]) as changes:
        subscriptions.tell({C}, {A})
        assert await anext(changes) == Added(keys(B, C))


async def test_a_reader_waits_until_something_comes(autojump_clock: trio.testing.MockClock) -> None:
    subscriptions = Subscriptions()
    read: list[Change] = []
    async with subscriptions.open([A]) as changes, trio.open_nursery() as nursery:

        async def reader() -> None:
            async for change in changes:
                read.append(change)

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert read == [Added(keys(A))]
        subscriptions.tell({B}, set())
        await trio.testing.wait_all_tasks_blocked()
        subscriptions.tell(set(), {A})
        await trio.testing.wait_all_tasks_blocked()
        assert read[1:] == [Added(keys(B)), Removed(keys(A))]
        nursery.cancel_scope.cancel()


async def test_what_came_and_went_unread_is_no_change() -> None:
    subscriptions = Subscriptions()
    async with subscriptions.open([A]) as changes:
        await anext(changes)
        for _ in range(1000):
            subscriptions.tell({B}, {A})
            subscriptions.tell({A}, {B})
        subscriptions.tell({C}, set())
        assert await anext(changes) == Added(keys(C))
        with trio.move_on_after(0) as scope:
            await anext(changes)
        assert scope.cancelled_caught


async def test_what_went_is_told_before_what_came() -> None:
    subscriptions = Subscriptions()
    async with subscriptions.open([A]) as changes:
        await anext(changes)
        subscriptions.tell({B}, {A})
        assert [await anext(changes), await anext(changes)] == [Removed(keys(A)), Added(keys(B))]


async def test_a_reader_that_left_is_forgotten() -> None:
    subscriptions = Subscriptions()
    async with subscriptions.open([]):
        pass
    with pytest.raises(RuntimeError):
        async with subscriptions.open([]):
            raise RuntimeError
    assert not subscriptions._all


async def test_readers_of_an_index_read_at_their_own_pace() -> None:
    index = StoreIndex()
    digest = Digest.of(b"layer")
    async with index.changes() as one, index.changes() as two:
        assert await anext(one) == Added(keys())
        index.put(digest, 5 * 2**20, Evidence.WHOLE)
        index.publish()
        assert await anext(one) == Added(keys(digest_key(digest)))
        index.remove(digest)
        index.publish()
        assert await anext(one) == Removed(keys(digest_key(digest)))
        assert await anext(two) == Added(keys())
