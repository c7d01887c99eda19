from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import SHAPE, replica, send, tell, usable

from capamesh.router.fleet.replica import Replica
from capamesh.router.policies import POLICIES, make_policy
from capamesh.router.policies.prequal.policy import (
    SMALL_FLEET,
    Prequal,
    done_s,
)


def fleet(count: int) -> tuple[Replica, ...]:
    return tuple(replica(str(number)) for number in range(count))


def cost_s(policy: Prequal, one: Replica, now_s: float = 0.0) -> float:
    """Return in how long a request would be done there."""
    return done_s([policy.pool.entry(one)], 8, now_s)[0]


def counted(
    is_eligible: Callable[[Replica], bool],
) -> tuple[Callable[[Replica], bool], list[Replica]]:
    asked: list[Replica] = []

    def rule(one: Replica) -> bool:
        asked.append(one)
        return is_eligible(one)

    return rule, asked


def test_prequal_is_the_policy_of_that_name() -> None:
    assert POLICIES["prequal"] is Prequal
    assert repr(make_policy("prequal", random.Random(0))).startswith("Prequal(ProbePool(0 of 16")


def test_empty_fleet_has_no_pick_and_no_probe() -> None:
    policy = Prequal(random.Random(0))
    assert policy.pick((), usable, SHAPE, 0.0) is None
    assert list(policy.probes((), usable, 0.0)) == []
    for count in (1, 3, 24, 25, 100):
        assert policy.pick(fleet(count), lambda _: False, SHAPE, 0.0) is None


# small fleets


def test_small_fleet_sends_where_it_is_done_soonest() -> None:
    policy, (slow, fast, busy) = Prequal(random.Random(0)), fleet(3)
    replicas = (slow, fast, busy)
    tell(policy, slow, run_us=30_000)
    tell(policy, fast, run_us=10_000)
    tell(policy, busy, rif=9, run_us=5000)
    picks: list[str] = []
    for at in range(6):
        picked = policy.pick(replicas, usable, SHAPE, 0.001 * at)
        assert picked is not None
        send(policy, picked, 0.001 * at)
        picks += picked.endpoint.peer
    # 10 ms at the fast one, 30 ms at it and at the slow one in turn, 50 and 70 ms, then 90 ms at all three
    assert "".join(picks) == "101112"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 9), st.integers(0, 9), st.integers(1, 50_000), st.booleans()),
        min_size=1,
        max_size=SMALL_FLEET,
    )
)
def test_small_fleet_has_no_eligible_replica_done_much_sooner_and_each_is_asked_at_most_once(
    states: list[tuple[int, int, int, bool]],
) -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(len(states))
    for one, (reported, own, run_us, _) in zip(replicas, states, strict=True):
        one.rif = own
        if reported >= 0:
            tell(policy, one, rif=reported, run_us=run_us)
    good = {one for one, state in zip(replicas, states, strict=True) if state[3]}
    rule, asked = counted(good.__contains__)
    picked = policy.pick(replicas, rule, SHAPE, 0.0)
    assert len(asked) == len(set(asked))
    if picked is None:
        assert not good
    else:
        soonest = min(cost_s(policy, one) for one in good)
        assert picked in good
        assert cost_s(policy, picked) <= 1.1 * soonest


# fleets with a pool


def large(count: int = 100, seed: int = 0) -> tuple[Prequal, tuple[Replica, ...]]:
    policy, replicas = Prequal(random.Random(seed)), fleet(count)
    policy.pick(replicas, usable, SHAPE, 0.0)
    return policy, replicas


def test_soonest_done_of_the_pool_is_picked_and_its_entry_compensated() -> None:
    policy, replicas = large()
    for number, run_us in ((3, 10_000), (5, 12_000), (7, 50_000)):
        tell(policy, replicas[number], run_us=run_us)
    picks: list[str] = []
    for _ in range(4):
        picked = policy.pick(replicas, usable, SHAPE, 0.1)
        assert picked is not None
        send(policy, picked, 0.1)
        picks += picked.endpoint.peer
    assert "".join(picks) == "3535"  # 10, 12, 30, 36, then 50 ms


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 39), st.integers(0, 20), st.integers(1, 50_000)), max_size=40
    ),
    st.sets(st.integers(0, 39)),
    st.integers(0, 99),
)
def test_pick_is_eligible_and_there_is_one_whenever_a_replica_is_eligible(
    reports: list[tuple[int, int, int]], bad: set[int], seed: int
) -> None:
    policy, replicas = Prequal(random.Random(seed)), fleet(40)
    for number, rif, run_us in reports:
        tell(policy, replicas[number], rif=rif, run_us=run_us)
    good = {one for number, one in enumerate(replicas) if number not in bad}
    picked = policy.pick(replicas, good.__contains__, SHAPE, 0.0)
    assert picked in good if good else picked is None
    usables = [one for one in policy.pool._pooled if one in good]
    if len(usables) > 1:
        assert picked is min(usables, key=lambda one: cost_s(policy, one))
