from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.prequal.pool import MAX_AGE_S, pool_size
from capamesh.router.policies.prequal.published_pool import (
    HOT_QUANTILE,
    UNBOUNDED,
    PublishedPool,
    RifDistribution,
    removals_a_request,
    reuse_budget,
)


def pool_of(
    *, size: int = 16, removals: float = 0.0, reuses: float = UNBOUNDED, seed: int = 0
) -> PublishedPool:
    pool = PublishedPool(random.Random(seed))
    pool.fit((), size=size)
    pool.removals, pool.reuses = removals, reuses
    return pool


def report(
    one: Replica, pool: PublishedPool, now_s: float, rif: int = 0, latency_us: int = 1000
) -> None:
    one.reported(LoadReport(rif, 0, 100, 0, latency_us, 0, latency_us, rif), now_s)
    pool.add(one, now_s)


def names(pool: PublishedPool) -> str:
    return "".join(one.endpoint.peer for one in pool.pooled)


@pytest.mark.parametrize(
    ("probes", "removals", "size", "replicas", "budget"),
    [
        (3, 1, 16, 100, 1.316),
        (1, 0.25, 16, 100, 3.390),
        (0.5, 0.25, 16, 100, 11.76),
        (3, 1, 16, 25, 25.0),
        (3, 1, 4, 8, 4.0),
        (3, 0.5, 4, 8, 2.0),
        (3, 1, 16, 10_000, 1.002),
        (9, 1, 16, 100, 1.0),
    ],
)
def test_the_reuse_budget_is_the_papers(
    probes: float, removals: float, size: int, replicas: int, budget: float
) -> None:
    assert reuse_budget(size, replicas, probes, removals) == pytest.approx(budget, rel=5e-4)


@pytest.mark.parametrize(
    ("probes", "removals", "size", "replicas"),
    [(3, 1, 16, 24), (3, 1, 16, 20), (3, 1, 16, 16), (3, 1, 16, 3), (3, 1, 4, 6), (0, 0, 16, 100)],
)
def test_where_the_papers_budget_is_undefined_reuse_is_unbounded(
    probes: float, removals: float, size: int, replicas: int
) -> None:
    assert reuse_budget(size, replicas, probes, removals) == UNBOUNDED


@given(st.integers(1, 5000), st.floats(0.1, 10))
def test_the_removal_that_suits_a_fleet_keeps_the_budget_defined(
    replicas: int, probes: float
) -> None:
    size = pool_size(replicas)
    removals = removals_a_request(size, replicas, probes)
    assert 0 <= removals <= 1
    if size < replicas:
        assert 1 <= reuse_budget(size, replicas, probes, removals) < UNBOUNDED


@pytest.mark.parametrize(
    ("replicas", "removals"), [(1, 0.0), (3, 0.5), (8, 0.75), (25, 0.78), (32, 0.75), (100, 1.0)]
)
def test_the_smaller_a_fleet_the_fewer_entries_are_removed(replicas: int, removals: float) -> None:
    assert removals_a_request(pool_size(replicas), replicas) == pytest.approx(removals)


def test_theta_is_the_quantile_of_the_latest_reports() -> None:
    rifs = RifDistribution()
    assert rifs.theta == 0
    for rif in (5, 1, 4, 2, 3, 9, 7, 8, 6, 0):
        rifs.replace(-1, rif)
    assert rifs.theta == 8  # the ninth of ten: 0.84 is beyond the eighth
    rifs.replace(9, 0)
    rifs.replace(8, 0)
    assert rifs.theta == 6
    rifs.replace(0, -1)
    assert (rifs.theta, repr(rifs)) == (6, "RifDistribution(9 hosts, hot above 6)")


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=40),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
)
def test_a_higher_quantile_never_shrinks_the_cold_set(
    rifs: list[int], high: float, part: float
) -> None:
    def theta(quantile: float) -> float:
        distribution = RifDistribution(quantile)
        for rif in rifs:
            distribution.replace(-1, rif)
        return distribution.theta

    assert theta(high * part) <= theta(high)
    assert theta(1.0) == max(rifs)  # by latency only
    assert theta(0.0) == -1  # by requests in flight only


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=60))
def test_the_distribution_holds_one_number_a_replica_the_latest(
    reports: list[tuple[int, int]],
) -> None:
    pool, replicas = pool_of(size=2), [replica(str(number)) for number in range(6)]
    latest: dict[int, int] = {}
    for at, (number, rif) in enumerate(reports):
        report(replicas[number], pool, at / 100, rif)
        latest[number] = rif
    assert pool.distribution._sorted == sorted(latest.values())
    for one in replicas:
        pool.forget(one)
    assert pool.distribution._sorted == []


def test_who_is_gone_counts_no_more() -> None:
    pool, (a, b, c) = pool_of(), (replica("a"), replica("b"), replica("c"))
    for one in (a, b, c):
        report(one, pool, 0.0, rif=7)
    a.is_gone = True
    pool.fit((b, c), size=16)
    assert pool.distribution._sorted == [7, 7]
    b.is_gone = True
    report(b, pool, 0.1)
    assert pool.distribution._sorted == [7]
    pool.fit((), size=16)
    assert pool.distribution._sorted == []


def test_an_entry_is_used_up_after_its_budget_rounded_at_random() -> None:
    pool = pool_of(reuses=2.5, seed=1)
    counts: list[int] = []
    for at in range(400):
        one = replica("a")
        report(one, pool, at)
        uses = 0
        while one in pool and uses < 9:
            pool.used(one)
            uses += 1
        counts.append(uses)
    assert set(counts) == {2, 3}
    assert 2.4 < sum(counts) / len(counts) < 2.6


def test_without_a_budget_an_entry_is_used_until_it_is_old() -> None:
    pool, a = pool_of(), replica("a")
    report(a, pool, 0.0)
    for _ in range(1000):
        pool.used(a)
    assert a in pool


def test_the_oldest_and_the_worst_are_removed_in_turn() -> None:
    pool, asked = pool_of(removals=1.0), replica("z")
    for at, (name, rif, latency_us) in enumerate(
        [("a", 1, 10), ("b", 1, 90), ("c", 9, 20), ("d", 1, 30), ("e", 8, 10), ("f", 1, 40)]
    ):
        report(replica(name), pool, at / 10, rif, latency_us)
    for one in range(9):  # so that 8 and 9 are hot
        pool.distribution.replace(-1, one % 2)
    gone: list[str] = []
    before = names(pool)
    for _ in range(6):
        pool.used(asked)
        after = names(pool)
        gone += set(before) - set(after)
        before = after
    # oldest; hot with the most in flight; oldest; the other hot one; oldest; what is left
    assert "".join(gone) == "acbedf"
    pool.used(asked)  # nothing is left to remove


def test_among_cold_ones_the_slowest_is_the_worst() -> None:
    pool = pool_of(removals=1.0)
    for at, (name, latency_us) in enumerate([("a", 5), ("b", 9), ("c", 7)]):
        report(replica(name), pool, at / 10, 1, latency_us)
    pool._is_oldest_next = False
    pool.used(replica("z"))
    assert names(pool) == "ac"


def test_fractional_removals_happen_as_often_as_they_say() -> None:
    pool = pool_of(size=500, removals=0.25, seed=3)
    for number in range(400):
        report(replica(str(number)), pool, 0.0)
    for _ in range(800):
        pool.used(replica("z"))
    assert 160 < 400 - len(pool) < 240


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["told", "sent", "gone", "later"]), st.integers(0, 9), st.integers(0, 9)
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(2, 6), st.floats(0, 2), st.floats(1, 4), st.integers(0, 99))
def test_no_entry_outlives_its_age_its_uses_its_replica_or_the_pools_size(
    steps: Sequence[Step], size: int, removals: float, reuses: float, seed: int
) -> None:
    pool = pool_of(size=size, removals=removals, reuses=reuses, seed=seed)
    replicas = [replica(str(number)) for number in range(10)]
    uses: dict[Replica, int] = {}
    now_s = 0.0
    for kind, number, amount in steps:
        one = replicas[number]
        match kind:
            case "told":
                report(one, pool, now_s, amount)
                uses[one] = 0
            case "sent":
                pool.used(one)
                uses[one] = uses.get(one, 0) + 1
            case "gone":
                one.is_gone = True
                pool.fit([each for each in replicas if not each.is_gone], size=size)
            case _:
                now_s += amount / 5
        fresh = pool.fresh(now_s)
        assert len(fresh) == len(pool) <= size
        for entry in fresh:
            assert not entry.replica.is_gone
            assert now_s - entry.reported_s <= MAX_AGE_S
            assert uses[entry.replica] < math.ceil(reuses)
        reported = [entry.reported_rif for entry in pool.known.values() if entry.reported_rif >= 0]
        assert pool.distribution._sorted == sorted(reported)


def test_the_text_form_says_what_is_hot() -> None:
    pool = pool_of(size=4)
    report(replica("a"), pool, 2.0, rif=3)
    assert repr(pool) == "PublishedPool(1 of 4, RifDistribution(1 hosts, hot above 3))"
    assert round(HOT_QUANTILE, 4) == 0.8409
