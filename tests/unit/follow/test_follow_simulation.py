"""Whole clusters on virtual time; those of 1,000 nodes are marked slow."""

from __future__ import annotations

import pytest

from tests.fakes.follow_network import GIGABIT, simulate

MB = 1_000_000


def test_fifty_nodes_finish_as_one_alone_with_one_download() -> None:
    result = simulate(nodes=50, layers=(200 * MB,), wire=True)
    assert result.finished == 50
    assert result.upstream_ratio < 1.01
    assert result.slowdown < 1.25


def test_a_small_layer_does_not_make_a_long_chain() -> None:
    result = simulate(nodes=200, layers=(MB,), step=0.002)
    assert result.finished == 200
    assert result.upstream_ratio < 1.01
    assert result.slowest < 0.3
    assert result.deepest < 40


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_node_in_ten_crashes_or_freezes_and_everybody_else_ends(seed: int) -> None:
    result = simulate(nodes=40, layers=(200 * MB,), fail=0.1, fail_within=1.6, seed=seed)
    assert result.finished == result.surviving
    assert result.upstream_ratio < 1.5
    assert result.longest_wait < 6.0


@pytest.mark.parametrize("seed", [1, 2])
def test_both_coordinators_are_lost(seed: int) -> None:
    result = simulate(nodes=30, layers=(200 * MB,), fail=0.04, fail_within=1.0, fail_coordinators=True, seed=seed)
    assert result.finished == result.surviving
    assert result.upstream_ratio < 2.1


def test_staggered_starts_share_one_download() -> None:
    result = simulate(nodes=30, layers=(100 * MB,) * 2, upstream=GIGABIT * 0.4, stagger=4.0)
    assert result.finished == 30
    assert result.upstream_ratio < 1.1
    assert result.slowdown < 1.25


@pytest.mark.parametrize("nodes", [2, 10])
@pytest.mark.parametrize("stagger", [0.0, 0.1])
def test_two_images_in_opposite_order_through_the_slots_of_a_node_end(nodes: int, stagger: float) -> None:
    """The deadlock of containerd 2.1: each node's slots wait for the leads that queue behind the other's."""
    result = simulate(nodes=nodes, layers=(20 * MB,) * 6, node_wide=True, two_images=True, stagger=stagger)
    assert (result.finished, result.broken) == (nodes, 0)
    assert result.upstream_ratio < 1.5, "each layer once where no slot had to be freed; seen: 1.0 to 1.17"
    assert result.slowdown < 2.3, "seen in 80 runs: 1.3 to 2.12"


def test_six_layers_through_the_slots_of_a_node_are_each_fetched_once() -> None:
    result = simulate(nodes=20, layers=(20 * MB,) * 6, node_wide=True, upstream=GIGABIT * 0.4)
    assert (result.finished, result.broken) == (20, 0)
    assert result.upstream_ratio < 1.05
    assert result.slowdown < 1.25


def test_an_upstream_that_limits_each_connection() -> None:
    result = simulate(nodes=10, layers=(25 * MB,) * 4, upstream=GIGABIT * 0.2, per_connection=True)
    assert result.finished == 10
    assert result.upstream_ratio < 1.05
    assert result.slowdown < 1.25


def test_a_slow_node_does_not_slow_those_behind_it() -> None:
    result = simulate(nodes=30, layers=(500 * MB,), slow_share=0.07)
    assert result.finished == 30
    assert result.median < result.single + 2 * 2.5, "a few seconds for each of the two slow nodes"
    assert result.upstream_ratio < 1.5


@pytest.mark.parametrize("pause", [0.3, 0.5])
def test_coordinators_that_answer_late_do_not_name_two_leads(pause: float) -> None:
    """Both of a layer may pause at once. Before there were deputies, 4 and 12 of 40 runs fetched layers twice."""
    for seed in range(1, 41):
        result = simulate(
            nodes=5,
            layers=(6_300_000,) * 4,
            upstream=GIGABIT / 10,
            stagger=0.03,
            pause=pause,
            limit=30.0,
            seed=seed,
        )
        assert result.finished == 5
        assert result.upstream_ratio <= 1.15


def test_two_coordinators_that_fail_at_once_seldom_cost_a_second_download() -> None:
    """Before there were stand-ins, 25 of these 60 runs fetched layers twice, and the mean was 2.48 s."""
    results = [
        simulate(
            nodes=10,
            layers=(6_300_000,) * 4,
            upstream=GIGABIT / 10,
            stagger=0.1,
            fail=0.2,
            fail_coordinators=True,
            fail_within=0.02,
            limit=60.0,
            seed=seed,
        )
        for seed in range(1, 61)
    ]
    assert all(result.finished == result.surviving for result in results)
    assert sum(result.upstream_ratio > 1.15 for result in results) <= 10, "seen: 7"
    assert sum(result.slowest for result in results) / len(results) < 2.4, "seen: 2.29"


@pytest.mark.slow
def test_a_thousand_nodes_and_a_gigabyte() -> None:
    result = simulate(nodes=1000)
    assert result.finished == 1000
    assert result.upstream_ratio < 1.1
    assert result.slowdown < 2.0


@pytest.mark.slow
def test_three_hundred_nodes_of_which_one_in_twenty_fails() -> None:
    """A thousand are the benchmark's (cold-simulation)."""
    result = simulate(nodes=300, fail=0.05)
    assert result.finished == result.surviving
    assert result.upstream_ratio < 1.5, "seen in 10 runs: 1.0"
    assert result.longest_wait < 6.0, "seen in 10 runs: 0.9 to 1.5"


@pytest.mark.slow
def test_three_hundred_nodes_lose_both_coordinators_and_one_in_twenty_others() -> None:
    result = simulate(nodes=300, fail=0.05, fail_coordinators=True)
    assert result.finished == result.surviving
    assert result.upstream_ratio < 1.5, "seen in 5 runs: 1.0 to 1.34"
