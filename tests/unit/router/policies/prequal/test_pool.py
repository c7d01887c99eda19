from __future__ import annotations

import pytest
from replicas import replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.prequal.pool import (
    MAX_PARALLEL,
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
