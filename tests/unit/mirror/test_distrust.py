"""Stories of bytes that containerd threw away."""

from __future__ import annotations

from peili.follow.poison import BAN_SECONDS
from peili.mirror import distrust
from peili.mirror.distrust import Distrust
from peili.oci.digest import Digest

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))


def thrown_away(memory: Distrust, digest: Digest, *sources: str, now: float = 0.0, complete: bool = True) -> None:
    for source in sources:
        memory.relayed(digest, source, now, complete=complete and source == sources[-1])
    memory.asked_from_start(digest, now)


def test_who_gave_a_body_that_is_asked_for_again_is_banned_for_this_digest_and_for_a_while() -> None:
    memory = Distrust()
    assert memory.asked_from_start(A, 0.0) == frozenset()
    memory.relayed(A, "liar", 1.0, complete=True)
    assert memory.banned(A, 1.0) == frozenset()
    assert memory.asked_from_start(A, 2.0) == {"liar"}
    assert memory.banned(A, 2.0) == {"liar"}
    assert memory.banned(B, 2.0) == frozenset()
    assert memory.asked_from_start(A, 3.0) == frozenset(), "once for each body"
    assert not memory.is_hopeless(A, 3.0)
    assert memory.banned(A, 2.0 + BAN_SECONDS) == frozenset()


def test_committed_bytes_clear_everybody() -> None:
    memory = Distrust()
    memory.relayed(A, "good", 0.0, complete=True)
    memory.committed(A)
    assert memory.asked_from_start(A, 1.0) == frozenset()
    thrown_away(memory, A, "liar")
    memory.committed(A)
    assert memory.banned(A, 1.0) == frozenset()


def test_a_digest_that_several_lie_about_is_left_to_upstream_for_a_while() -> None:
    memory = Distrust()
    for number in range(distrust.TRIES):
        assert not memory.is_hopeless(A, 0.0)
        thrown_away(memory, A, f"liar {number}")
    assert memory.is_hopeless(A, 0.0)
    assert not memory.is_hopeless(B, 0.0)
    assert not memory.is_hopeless(A, BAN_SECONDS)


def test_who_lies_about_several_digests_is_asked_for_nothing() -> None:
    memory = Distrust()
    thrown_away(memory, A, "liar")
    assert memory.banned(C, 0.0) == frozenset()
    thrown_away(memory, B, "liar")
    assert memory.banned(C, 0.0) == {"liar"}
    assert memory.banned(C, BAN_SECONDS) == frozenset()


def test_one_of_several_sources_is_not_proven_to_lie() -> None:
    memory = Distrust()
    thrown_away(memory, A, "liar", "good")
    thrown_away(memory, B, "liar", "good")
    assert memory.banned(A, 0.0) == {"liar", "good"}
    assert memory.banned(C, 0.0) == frozenset()


def test_a_part_of_a_body_that_was_thrown_away_is_no_proof_either() -> None:
    memory = Distrust()
    for digest in (A, B):
        thrown_away(memory, digest, "perhaps", complete=False)
        assert memory.banned(digest, 0.0) == {"perhaps"}
    assert memory.banned(C, 0.0) == frozenset()


def test_the_memory_is_bounded() -> None:
    memory = Distrust()
    for number in range(distrust.MAXIMUM_DIGESTS + 10):
        thrown_away(memory, Digest.of(b"%d" % number), f"liar {number}")
    assert len(memory._thrown_away) == distrust.MAXIMUM_DIGESTS
    assert len(memory._proofs) == distrust.MAXIMUM_PROVIDERS
