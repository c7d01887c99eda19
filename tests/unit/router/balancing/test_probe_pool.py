from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hosts import host
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.hosts import Host
from capamesh.router.balancing.probe_pool import (
    HOT_QUANTILE,
    MAX_AGE_S,
    MAX_PARALLEL,
    UNBOUNDED,
    Entry,
    ProbePool,
    RifDistribution,
    pool_size,
    removals_a_request,
    reuse_budget,
)


def pool_of(
    *, size: int = 16, removals: float = 0.0, reuses: float = UNBOUNDED, seed: int = 0
) -> ProbePool:
    pool = ProbePool(random.Random(seed))
    pool.fit((), size=size, removals=removals, reuses=reuses)
    return pool


def report(one: Host, pool: ProbePool, now_s: float, rif: int = 0, latency_us: int = 1000) -> None:
    one.told(LoadReport(rif, 0, 100, 0, latency_us, 0, latency_us, rif), now_s)
    pool.add(one, now_s)


def names(pool: ProbePool) -> str:
    return "".join(one.candidate.peer for one in pool.pooled)


@pytest.mark.parametrize(
    ("probes", "removals", "size", "hosts", "budget"),
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
    probes: float, removals: float, size: int, hosts: int, budget: float
) -> None:
    assert reuse_budget(size, hosts, probes, removals) == pytest.approx(budget, rel=5e-4)


@pytest.mark.parametrize(
    ("probes", "removals", "size", "hosts"),
    [(3, 1, 16, 24), (3, 1, 16, 20), (3, 1, 16, 16), (3, 1, 16, 3), (3, 1, 4, 6), (0, 0, 16, 100)],
)
def test_where_the_papers_budget_is_undefined_reuse_is_unbounded(
    probes: float, removals: float, size: int, hosts: int
) -> None:
    assert reuse_budget(size, hosts, probes, removals) == UNBOUNDED


@given(st.integers(1, 5000), st.floats(0.1, 10))
def test_the_removal_that_suits_a_fleet_keeps_the_budget_defined(hosts: int, probes: float) -> None:
    size = pool_size(hosts)
    removals = removals_a_request(size, hosts, probes)
    assert 0 <= removals <= 1
    if size < hosts:
        assert 1 <= reuse_budget(size, hosts, probes, removals) < UNBOUNDED


@pytest.mark.parametrize(
    ("hosts", "size", "removals"),
    [(1, 2, 0.0), (3, 2, 0.5), (8, 4, 0.75), (25, 12, 0.78), (32, 16, 0.75), (100, 16, 1.0)],
)
def test_a_pool_has_half_of_the_hosts_from_two_to_sixteen(
    hosts: int, size: int, removals: float
) -> None:
    assert pool_size(hosts) == size
    assert removals_a_request(size, hosts) == pytest.approx(removals)


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
def test_the_distribution_holds_one_number_a_host_the_latest(
    reports: list[tuple[int, int]],
) -> None:
    pool, hosts = pool_of(size=2), [host(str(number)) for number in range(6)]
    latest: dict[int, int] = {}
    for at, (number, rif) in enumerate(reports):
        report(hosts[number], pool, at / 100, rif)
        latest[number] = rif
    assert pool.distribution._sorted == sorted(latest.values())
    for one in hosts:
        pool.forget(one)
    assert pool.distribution._sorted == []


def test_a_new_report_replaces_the_hosts_former_one_and_is_the_youngest() -> None:
    pool, (a, b) = pool_of(), (host("a"), host("b"))
    report(a, pool, 1.0, rif=3)
    report(b, pool, 1.1)
    report(a, pool, 1.2, rif=5, latency_us=7000)
    entry = pool.pooled[a]
    assert (len(pool), names(pool)) == (2, "ba")
    assert (entry.rif, entry.latency_s, entry.told_s) == (5, 0.007, 1.2)


def test_what_is_older_than_a_second_leaves_whatever_the_order_it_came_in() -> None:
    pool, (a, b, c) = pool_of(), (host("a"), host("b"), host("c"))
    report(b, pool, 1.5)
    report(a, pool, 1.0)
    report(c, pool, 2.0)
    assert [entry.host for entry in pool.fresh(1.0 + MAX_AGE_S)] == [b, a, c]
    assert [entry.host for entry in pool.fresh(2.1)] == [b, c]
    assert names(pool) == "bc"
    assert [entry.host for entry in pool.fresh(0.0)] == [b, c]  # the clock went back
    assert pool.fresh(9.0) == []


def test_a_full_pool_drops_its_oldest_entry() -> None:
    pool = pool_of(size=3)
    for at, name in enumerate("abcd"):
        report(host(name), pool, at / 10)
    assert names(pool) == "bcd"
    pool.fit(list(pool.known), size=2, removals=0.0, reuses=UNBOUNDED)
    assert names(pool) == "cd"


def test_an_entry_is_used_up_after_its_budget_rounded_at_random() -> None:
    pool = pool_of(reuses=2.5, seed=1)
    counts: list[int] = []
    for at in range(400):
        one = host("a")
        report(one, pool, at)
        uses = 0
        while one in pool and uses < 9:
            pool.used(one)
            uses += 1
        counts.append(uses)
    assert set(counts) == {2, 3}
    assert 2.4 < sum(counts) / len(counts) < 2.6


def test_without_a_budget_an_entry_is_used_until_it_is_old() -> None:
    pool, a = pool_of(), host("a")
    report(a, pool, 0.0)
    for _ in range(1000):
        pool.used(a)
    assert a in pool


def test_the_oldest_and_the_worst_are_removed_in_turn() -> None:
    pool, asked = pool_of(removals=1.0), host("z")
    for at, (name, rif, latency_us) in enumerate(
        [("a", 1, 10), ("b", 1, 90), ("c", 9, 20), ("d", 1, 30), ("e", 8, 10), ("f", 1, 40)]
    ):
        report(host(name), pool, at / 10, rif, latency_us)
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
        report(host(name), pool, at / 10, 1, latency_us)
    pool._is_oldest_next = False
    pool.used(host("z"))
    assert names(pool) == "ac"


def test_fractional_removals_happen_as_often_as_they_say() -> None:
    pool = pool_of(size=500, removals=0.25, seed=3)
    for number in range(400):
        report(host(str(number)), pool, 0.0)
    for _ in range(800):
        pool.used(host("z"))
    assert 160 < 400 - len(pool) < 240


def test_own_requests_are_counted_exactly_and_others_as_told() -> None:
    pool, a = pool_of(), host("a", rif=2)
    report(a, pool, 0.0, rif=5)  # three are others'
    entry = pool.pooled[a]
    assert (entry.others, entry.rif) == (3, 5)
    a.rif += 1  # chosen again: the pooled entry is compensated
    assert entry.rif == 6
    a.rif -= 3  # all own ones were answered
    assert entry.rif == 3
    a.rif = 4
    report(a, pool, 0.1, rif=1)  # three have not arrived there yet
    assert (entry.others, entry.rif) == (0, 4)


def test_how_many_run_beside_each_other_is_learnt_and_bounded() -> None:
    pool, a = pool_of(), host("a")
    for in_flight, queued, parallel in (
        (0, 0, 1),
        (9, 5, 4),
        (3, 2, 4),
        (10**9, 0, MAX_PARALLEL),
    ):
        a.told(LoadReport(in_flight, queued, 100, 6000, 8000, 0), 0.0)
        pool.add(a, 0.0)
        assert pool.known[a].parallel == parallel
    a.told(LoadReport(4, 0, 100, 6000, 512_000, 0), 0.0)
    a.rif = 3
    pool.add(a, 0.0)
    entry = pool.known[a]
    assert (entry.run_s, entry.share_s) == (0.512, 0.002)
    assert entry.wait_s == pytest.approx(0.006 - 3 * 0.002)


def test_who_is_gone_is_forgotten_and_a_late_report_does_not_bring_it_back() -> None:
    pool, (a, b, c) = pool_of(), (host("a"), host("b"), host("c"))
    for one in (a, b, c):
        report(one, pool, 0.0, rif=7)
    a.is_gone = True
    assert [entry.host for entry in pool.fresh(0.0)] == [b, c]
    assert a not in pool.known
    report(a, pool, 0.1)
    b.is_gone = True
    report(b, pool, 0.1)
    assert (names(pool), list(pool.known)) == ("c", [c])
    assert pool.distribution._sorted == [7]
    pool.fit([], size=16, removals=0.0, reuses=UNBOUNDED)
    assert (len(pool), pool.known, pool.distribution._sorted) == (0, {}, [])


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["told", "sent", "gone", "later"]), st.integers(0, 9), st.integers(0, 9)
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(2, 6), st.floats(0, 2), st.floats(1, 4), st.integers(0, 99))
def test_no_entry_outlives_its_age_its_uses_its_host_or_the_pools_size(
    steps: Sequence[Step], size: int, removals: float, reuses: float, seed: int
) -> None:
    pool = pool_of(size=size, removals=removals, reuses=reuses, seed=seed)
    hosts = [host(str(number)) for number in range(10)]
    uses: dict[Host, int] = {}
    now_s = 0.0
    for kind, number, amount in steps:
        one = hosts[number]
        match kind:
            case "told":
                report(one, pool, now_s, amount)
                uses[one] = 0
            case "sent":
                pool.used(one)
                uses[one] = uses.get(one, 0) + 1
            case "gone":
                one.is_gone = True
            case _:
                now_s += amount / 5
        fresh = pool.fresh(now_s)
        assert len(fresh) == len(pool) <= size
        for entry in fresh:
            assert not entry.host.is_gone
            assert now_s - entry.told_s <= MAX_AGE_S
            assert uses[entry.host] < math.ceil(reuses)
        assert len(pool.distribution._sorted) == len(pool.known)


def test_the_text_forms_say_what_is_known() -> None:
    pool, a = pool_of(size=4), host("a")
    report(a, pool, 2.0, rif=3, latency_us=1500)
    assert repr(pool) == "ProbePool(1 of 4, RifDistribution(1 hosts, hot above 3))"
    assert repr(pool.known[a]).endswith("rif 3, 1.5 ms, told 2.000)")
    assert Entry(a).told_rif == -1
    assert round(HOT_QUANTILE, 4) == 0.8409
