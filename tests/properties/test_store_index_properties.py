"""However changes come to the index, it ends where a fresh one would, and its readers know what it offers."""

from __future__ import annotations

from collections.abc import Callable

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.store.changes import Subscription
from peili.store.index import Evidence, StoreIndex
from peili.store.manifests import InvalidManifest, parse_manifest
from peili.store.protocol import Added
from tests.fakes.images import build_index, index_of
from tests.properties.effort import examples

INDEX = build_index("model", layer_sizes=(10,))
NESTED = index_of([INDEX, INDEX.parts[0]])
BLOBS = NESTED.blobs
DIGESTS = list(BLOBS)
TARGETS = [NESTED.descriptor, INDEX.descriptor, INDEX.parts[0].descriptor, INDEX.parts[0].layers[0]]
NAMES = ["docker.io/library/a:1", "DOCKER.IO/library/a:1", "docker.io/library/a:2", str(DIGESTS[0]), "nonsense"]
MANIFESTS = {image.descriptor.digest for image in (NESTED, INDEX, *INDEX.parts)}
Step = Callable[[StoreIndex], None]

WHOLE = st.sampled_from(DIGESTS).map(lambda d: lambda index: index.put(d, len(BLOBS[d]), Evidence.VERIFIED))
PARTIAL = st.sampled_from(DIGESTS).map(lambda d: lambda index: index.put(d, 1, Evidence.WRITING))
GONE = st.sampled_from(DIGESTS).map(lambda d: lambda index: index.remove(d))
NAMED = st.tuples(st.sampled_from(NAMES), st.sampled_from(TARGETS)).map(
    lambda pair: lambda index: index.set_image(*pair)
)
UNNAMED = st.sampled_from(NAMES).map(lambda name: lambda index: index.remove_image(name))
SETTLE: st.SearchStrategy[Step] = st.just(lambda index: settle(index))  # noqa: PLW0108 -- defined below
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(WHOLE, WHOLE, PARTIAL, GONE, NAMED, UNNAMED, SETTLE), max_size=40
)


def settle(index: StoreIndex) -> None:
    while unread := index.unread():
        for item in unread:
            content = BLOBS[item.digest]
            if len(content) != item.size:
                index.remove(item.digest)
                continue
            try:
                index.learn(item.digest, parse_manifest(content))
            except InvalidManifest:
                index.learn(item.digest, None)
    index.publish()


def fresh_copy(index: StoreIndex) -> StoreIndex:
    """A new index that is told the same state at once."""
    copy = StoreIndex()
    copy.replace_content(
        {
            digest: (entry.size, entry.evidence)
            for digest in DIGESTS
            if (entry := index._entries.get(Key(str(digest)))) is not None and entry.size >= 0
        }
    )
    targets = {str(target.digest): target for target in TARGETS}
    copy.replace_images({name: targets[key] for name, key in index._images.items()})
    settle(copy)
    return copy


@settings(deadline=None, max_examples=examples(200))
@given(STEPS)
def test_any_order_of_changes_ends_in_the_same_offer(steps: list[Step]) -> None:
    index = StoreIndex()
    for step in steps:
        step(index)
    settle(index)
    copy = fresh_copy(index)
    assert index.keys() == copy.keys()
    for name in NAMES[:3]:
        reference = Reference.parse(name)
        assert index.resolve(reference) == copy.resolve(reference)
    held = {digest for digest in DIGESTS if index.descriptor(digest) is not None}
    assert {str(digest) for digest in held} == {key for key in frozenset(index.keys()) if key.startswith("sha256:")}
    # What a manifest once said of its children stays known; what manifests are, they say themselves.
    assert all(index.descriptor(digest) == copy.descriptor(digest) for digest in held & MANIFESTS)


@settings(deadline=None, max_examples=examples(200))
@given(STEPS)
def test_nothing_is_left_when_everything_is_gone(steps: list[Step]) -> None:
    index = StoreIndex()
    for step in steps:
        step(index)
    index.replace_content({})
    index.replace_images({})
    settle(index)
    assert not any((index._entries, index._images, index._tags, index._tags_of, index._offered, index._unread))


@settings(deadline=None, max_examples=examples(150))
@given(STEPS, st.lists(st.booleans(), max_size=60))
def test_a_reader_at_any_pace_ends_with_what_is_offered(steps: list[Step], reads: list[bool]) -> None:
    async def play() -> None:
        index = StoreIndex()
        known: set[Key] = set()
        async with index.changes() as changes:
            assert isinstance(changes, Subscription)

            async def read() -> None:
                with trio.move_on_after(0.0):
                    await trio.lowlevel.checkpoint_if_cancelled()
                change = changes._take()
                if isinstance(change, Added):
                    assert not change.keys & known
                    known.update(change.keys)
                elif change is not None:
                    assert change.keys <= known
                    known.difference_update(change.keys)

            for number, step in enumerate(steps):
                step(index)
                index.publish()
                if number < len(reads) and reads[number]:
                    await read()
            await read()
            await read()
            assert known == set(index.keys())

    trio.run(play)
