"""The simulated network, small enough for every test run; the figures of 1,000 nodes are the benchmarks'."""

from __future__ import annotations

from statistics import mean

from tests.fakes.kademlia_network import Scenario, simulate


def test_a_hundred_nodes_with_churn_frozen_ones_and_liars_find_what_lives() -> None:
    result = simulate(
        Scenario(
            nodes=100,
            keys=200,
            keys_of_node=3,
            settle=30.0,
            measured=25.0,
            lookups=500,
            misses=100,
            liars=0.02,
            churn=2.0,
        )
    )
    assert result.lookups > 450
    assert result.success > 0.999, result
    assert result.percentile(0.99) < 0.05, result
    assert max(result.misses) < 0.05, result
    assert result.load_ratio < 5, result
    assert mean(result.hops) < 3, result


def test_a_small_network_is_one_round_trip() -> None:
    result = simulate(
        Scenario(
            nodes=12,
            keys=40,
            keys_of_node=3,
            settle=30.0,
            measured=20.0,
            lookups=200,
            misses=20,
            churn=0,
            frozen=0,
            liars=0,
        )
    )
    assert result.success == 1.0, result
    assert max(result.times) < 0.0015, result
    assert max(result.requests, default=0) <= 3, result
