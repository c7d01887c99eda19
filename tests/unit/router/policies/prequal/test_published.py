from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import SHAPE, fleet, send, tell, usable

from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.prequal.published import HotCold


def large(count: int = 40) -> tuple[HotCold, tuple[Replica, ...]]:
    policy, replicas = HotCold(random.Random(0)), fleet([0] * count)
    policy.pick(replicas, usable, SHAPE, 0.0)
    return policy, replicas


def test_the_fastest_cold_one_wins_else_the_least_busy_hot_one() -> None:
    policy, replicas = large()
    for number, (rif, latency_us) in enumerate([(1, 9000), (2, 8000), (9, 100), (8, 200)]):
        tell(policy, replicas[number], rif=rif, latency_us=latency_us)
    for _ in range(20):
        policy.published.distribution.replace(-1, 2)
    assert policy.published.distribution.theta == 2
    assert policy.pick(replicas, usable, SHAPE, 0.0) is replicas[1]
    hot = {replicas[2], replicas[3]}
    assert policy.pick(replicas, hot.__contains__, SHAPE, 0.0) is replicas[3]


def test_entries_are_used_up_and_removed() -> None:
    policy, replicas = large(100)
    assert policy.published.removals == 1.0
    assert policy.published.reuses == pytest.approx(1.316, rel=1e-3)
    for one in replicas[:8]:
        tell(policy, one)
    for _ in range(3):  # each removes one
        send(policy, replicas[99], 0.0)
    assert len(policy.pool) == 5
    policy, _ = large(25)
    assert policy.published.removals == pytest.approx(0.78)
    assert policy.published.reuses == pytest.approx(2.564, rel=1e-3)


def test_a_pool_of_one_is_no_choice_and_a_replica_is_drawn() -> None:
    policy, replicas = large()
    tell(policy, replicas[0])
    picks = {policy.pick(replicas, usable, SHAPE, 0.0) for _ in range(300)}
    assert len(picks) == 40


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(1, 9)), min_size=2, max_size=16
    ),
    st.sets(st.integers(0, 15)),
)
def test_the_laws_of_hot_and_cold(states: list[tuple[int, int, int]], bad: set[int]) -> None:
    policy, replicas = large()
    for one, (rif, own, latency_us) in zip(replicas, states, strict=False):
        one.rif = own
        tell(policy, one, rif=rif, latency_us=latency_us)
    good = [one for one in replicas[: len(states)] if int(one.endpoint.peer) not in bad]
    if len(good) < 2:
        return
    picked = policy.pick(replicas, good.__contains__, SHAPE, 0.0)
    assert picked in good
    entries = [policy.pool.entry(one) for one in good]
    chosen, theta = policy.pool.entry(picked), policy.published.distribution.theta
    cold = [entry for entry in entries if entry.rif <= theta]
    if cold:
        assert chosen.rif <= theta
        assert chosen.latency_s == min(entry.latency_s for entry in cold)
    else:
        assert chosen.rif == min(entry.rif for entry in entries)
