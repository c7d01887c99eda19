from __future__ import annotations

import math

import pytest
from replicas import replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.prequal.pool import (
    MAX_AGE_S,
    MAX_PARALLEL,
    Entry,
    ProbePool,
    pool_size,
)


def pool_of(*, size: int = 16) -> ProbePool:
    pool = ProbePool()
    pool.fit((), size=size)
    return pool


def report(
    one: Replica, pool: ProbePool, now_s: float, rif: int = 0, latency_us: int = 1000
) -> None:
    one.reported(LoadReport(rif, 0, 100, 0, latency_us, 0, latency_us, rif), now_s)
    pool.add(one, now_s)


def names(pool: ProbePool) -> str:
    return "".join(one.endpoint.peer for one in pool._pooled)


@pytest.mark.parametrize(
    ("replicas", "size"), [(1, 2), (3, 2), (8, 4), (25, 12), (32, 16), (100, 16)]
)
def test_pool_has_half_of_the_replicas_from_two_to_sixteen(replicas: int, size: int) -> None:
    assert pool_size(replicas) == size


def test_new_report_replaces_the_replicas_former_one_and_is_the_youngest() -> None:
    pool, (a, b) = pool_of(), (replica("a"), replica("b"))
    report(a, pool, 1.0, rif=3)
    report(b, pool, 1.1)
    report(a, pool, 1.2, rif=5, latency_us=7000)
    entry = pool._pooled[a]
    assert (len(pool), names(pool)) == (2, "ba")
    assert (entry.rif, entry.latency_s, entry.reported_s) == (5, 0.007, 1.2)


def test_entry_older_than_a_second_leaves_whatever_the_order_it_came_in() -> None:
    pool, (a, b, c) = pool_of(), (replica("a"), replica("b"), replica("c"))
    report(b, pool, 1.5)
    report(a, pool, 1.0)
    report(c, pool, 2.0)
    assert [entry.replica for entry in pool.fresh(1.0 + MAX_AGE_S)] == [b, a, c]
    assert [entry.replica for entry in pool.fresh(2.1)] == [b, c]
    assert names(pool) == "bc"
    assert [entry.replica for entry in pool.fresh(0.0)] == [b, c]  # the clock went back
    assert pool.fresh(9.0) == []


def test_full_pool_drops_its_oldest_entry() -> None:
    pool = pool_of(size=3)
    for at, name in enumerate("abcd"):
        report(replica(name), pool, at / 10)
    assert names(pool) == "bcd"
    pool.fit(list(pool.known), size=2)
    assert names(pool) == "cd"


def test_fleet_gets_what_is_known_of_each_of_its_replicas_in_its_order() -> None:
    pool, (a, b, c) = pool_of(), (replica("a"), replica("b"), replica("c"))
    report(a, pool, 1.0)
    report(b, pool, 1.1)
    entries = pool.fit((c, b), size=16)
    assert [(entry.replica, entry.reported_s) for entry in entries] == [(c, -math.inf), (b, 1.1)]
    assert entries == [pool.entry(c), pool.entry(b)]
    assert (names(pool), list(pool.known)) == ("b", [b, c])


def test_own_requests_are_counted_exactly_and_others_as_reported() -> None:
    pool, a = pool_of(), replica("a", rif=2)
    report(a, pool, 0.0, rif=5)  # three are others'
    entry = pool._pooled[a]
    assert (entry.others, entry.rif) == (3, 5)
    a.rif += 1  # chosen again: the pooled entry is compensated
    assert entry.rif == 6
    a.rif -= 3  # all own ones were answered
    assert entry.rif == 3
    a.rif = 4
    report(a, pool, 0.1, rif=1)  # three have not arrived there yet
    assert (entry.others, entry.rif) == (0, 4)


def test_number_of_runs_beside_each_other_is_learnt_and_bounded() -> None:
    pool, a = pool_of(), replica("a")
    for in_flight, queued, parallel in (
        (0, 0, 1),
        (9, 5, 4),
        (3, 2, 4),
        (10**9, 0, MAX_PARALLEL),
    ):
        a.reported(LoadReport(in_flight, queued, 100, 6000, 8000, 0), 0.0)
        pool.add(a, 0.0)
        assert pool.known[a].parallel == parallel
    a.reported(LoadReport(4, 0, 100, 6000, 512_000, 0), 0.0)
    a.rif = 3
    pool.add(a, 0.0)
    entry = pool.known[a]
    assert (entry.run_s, entry.share_s) == (0.512, 0.002)
    assert entry.wait_s == pytest.approx(0.006 - 3 * 0.002)


def test_replica_that_is_gone_is_forgotten_and_a_late_report_does_not_bring_it_back() -> None:
    pool, (a, b, c) = pool_of(), (replica("a"), replica("b"), replica("c"))
    for one in (a, b, c):
        report(one, pool, 0.0, rif=7)
    a.is_gone = True
    pool.fit((b, c), size=16)
    assert [entry.replica for entry in pool.fresh(0.0)] == [b, c]
    assert a not in pool.known
    report(a, pool, 0.1)
    b.is_gone = True
    report(b, pool, 0.1)
    assert (names(pool), list(pool.known)) == ("c", [c])
    pool.fit((), size=16)
    assert (len(pool), pool.known) == (0, {})


def test_text_forms_say_what_is_known() -> None:
    pool, a = pool_of(size=4), replica("a")
    report(a, pool, 2.0, rif=3, latency_us=1500)
    assert repr(pool) == "ProbePool(1 of 4)"
    assert repr(pool.known[a]).endswith("rif 3, 1.5 ms, told 2.000)")
    assert Entry(a).reported_rif == -1
