from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import SHAPE, replica, tell

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.prequal.policy import SMALL_FLEET, Prequal, done_s
from capamesh.router.policies.prequal.pool import MAX_PARALLEL, ProbePool, pool_size


def fleet(count: int) -> tuple[Replica, ...]:
    return tuple(replica(str(number)) for number in range(count))


def cost_s(policy: Prequal, one: Replica, now_s: float = 0.0) -> float:
    """Return in how long a request would be done there."""
    return done_s([policy.pool.entry(one)], 8, now_s)[0]


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
    asked: list[Replica] = []
    picked = policy.pick(replicas, lambda one: asked.append(one) or one in good, SHAPE, 0.0)
    assert len(asked) == len(set(asked))
    if picked is None:
        assert not good
    else:
        soonest = min(cost_s(policy, one) for one in good)
        assert picked in good
        assert cost_s(policy, picked) <= 1.1 * soonest


@pytest.fixture
def pool() -> ProbePool:
    pool = ProbePool()
    pool.fit((), size=16)
    return pool


def report(one: Replica, pool: ProbePool, now_s: float) -> None:
    one.reported(LoadReport(7, 0, 100, 0, 1000, 0, 1000, 7), now_s)
    pool.add(one, now_s)


@pytest.mark.parametrize(
    ("replicas", "size"), [(1, 2), (3, 2), (8, 4), (25, 12), (32, 16), (100, 16)]
)
def test_pool_has_half_of_the_replicas_from_two_to_sixteen(replicas: int, size: int) -> None:
    assert pool_size(replicas) == size


def test_number_of_runs_beside_each_other_is_learnt_and_bounded(pool: ProbePool) -> None:
    a = replica("a")
    most = (10**9, 0, MAX_PARALLEL)
    for in_flight, queued, parallel in ((0, 0, 1), (9, 5, 4), (3, 2, 4), most):
        a.reported(LoadReport(in_flight, queued, 100, 6000, 8000, 0), 0.0)
        pool.add(a, 0.0)
        assert pool.known[a].parallel == parallel
    a.reported(LoadReport(4, 0, 100, 6000, 512_000, 0), 0.0)
    a.rif = 3
    pool.add(a, 0.0)
    entry = pool.known[a]
    assert (entry.run_s, entry.share_s) == (0.512, 0.002)
    assert entry.wait_s == pytest.approx(0.006 - 3 * 0.002)


def test_replica_that_is_gone_is_forgotten_and_a_late_report_does_not_bring_it_back(
    pool: ProbePool,
) -> None:
    a, b, c = fleet(3)
    for one in (a, b, c):
        report(one, pool, 0.0)
    a.is_gone = True
    pool.fit((b, c), size=16)
    assert [entry.replica for entry in pool.fresh(0.0)] == [b, c]
    assert a not in pool.known
    report(a, pool, 0.1)
    b.is_gone = True
    report(b, pool, 0.1)
    assert (list(pool._pooled), list(pool.known)) == ([c], [c])
    pool.fit((), size=16)
    assert (len(pool), pool.known) == (0, {})
