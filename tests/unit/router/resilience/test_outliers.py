from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.health import Health
from capamesh.router.resilience.outliers import OutlierWatch, is_panic
from capamesh.router.resilience.verdicts import Outlier, Slow


class Replica:
    def __init__(self, name: str) -> None:
        self.name = name
        self.health = Health()
        self.is_gone = False

    def __repr__(self) -> str:
        return self.name


def fleet(size: int) -> list[Replica]:
    return [Replica(chr(ord("a") + n)) for n in range(size)]


def count(
    watch: OutlierWatch[Replica], outcomes: Mapping[Replica, tuple[int, int]], now_s: float
) -> None:
    """Record (failures, requests) of each replica."""
    for replica, (failures, requests) in outcomes.items():
        for n in range(requests):
            watch.record(replica, n >= failures, 0.01, now_s)


def ejected(verdicts: list[Outlier[Replica] | Slow[Replica]]) -> str:
    return "".join(v.replica.name for v in verdicts if isinstance(v, Outlier))


def test_failing_one_of_three_is_out_after_two_seconds() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 20), b: (0, 20), c: (20, 20)}, 0.0)
    assert watch.tick(1.9) == []
    assert watch.tick(2.0) == [Outlier(c, "100% of 20 requests failed, 0% elsewhere")]
    assert watch.tick(4.0) == []


def test_window_of_few_requests_lasts_until_there_are_enough() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 9), b: (0, 9), c: (9, 9)}, 0.0)
    assert watch.tick(10.0) == []
    count(watch, {a: (0, 1), b: (0, 1), c: (1, 1)}, 10.0)
    assert ejected(watch.tick(10.5)) == "c"


def test_replica_is_not_judged_by_fewer_than_ten_requests() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 9), b: (0, 9), c: (9, 9)}, 0.0)
    assert watch.tick(60.0) == []
    assert watch.tick(70.0) == []


def test_either_of_two_with_twelve_requests_each_may_be_so_by_chance() -> None:
    for size, expected in ((12, ""), (13, "b")):
        a, b = fleet(2)
        watch = OutlierWatch[Replica]()
        count(watch, {a: (0, size), b: (size, size)}, 0.0)
        assert ejected(watch.tick(10.0)) == expected


def test_replica_that_fails_a_third_must_do_so_in_two_windows() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    outcomes = {a: (1, 50), b: (0, 50), c: (17, 50)}
    count(watch, outcomes, 0.0)
    assert watch.tick(2.0) == []
    count(watch, outcomes, 2.0)
    assert watch.tick(4.0) == [Outlier(c, "34% of 50 requests failed, 1% elsewhere")]


def test_one_bad_batch_ejects_nobody() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 50), b: (0, 50), c: (16, 50)}, 0.0)
    assert watch.tick(2.0) == []
    count(watch, {a: (0, 50), b: (0, 50), c: (0, 50)}, 2.0)
    assert watch.tick(4.0) == []
    count(watch, {a: (0, 50), b: (0, 50), c: (16, 50)}, 4.0)
    assert watch.tick(6.0) == []


def test_deviations_as_envoy_s_find_a_smaller_gap_among_many_with_many_requests() -> None:
    replicas = fleet(6)
    for size, expected in ((200, "f"), (60, "")):
        watch = OutlierWatch[Replica]()
        outcomes = dict.fromkeys(replicas, (0, size)) | {replicas[-1]: (size // 10, size)}
        count(watch, outcomes, 0.0)
        assert watch.tick(2.0) == []
        count(watch, outcomes, 2.0)
        assert ejected(watch.tick(4.0)) == expected


def test_third_at_most_and_one_in_any_case_the_worst_first() -> None:
    for size, bad, expected in ((2, 1, 1), (3, 2, 1), (5, 2, 1), (7, 3, 2), (10, 4, 3)):
        replicas = fleet(size)
        watch = OutlierWatch[Replica]()
        outcomes = dict.fromkeys(replicas, (0, 100))
        outcomes |= {replica: (90 + n, 100) for n, replica in enumerate(replicas[:bad])}
        count(watch, outcomes, 0.0)
        out = ejected(watch.tick(2.0))
        assert out == "".join(replica.name for replica in replicas[:bad][::-1])[:expected]


def test_ejected_replica_counts_and_is_not_judged_again() -> None:
    replicas = fleet(4)
    replicas[0].health.eject(0.0)
    watch = OutlierWatch[Replica]()
    count(watch, {replica: (20 * (n < 2), 20) for n, replica in enumerate(replicas)}, 0.0)
    assert watch.tick(2.0) == []


def test_lone_replica_and_both_of_two_that_fail_are_kept() -> None:
    (a,) = fleet(1)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (50, 50)}, 0.0)
    assert watch.tick(2.0) == []
    a, b = fleet(2)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (50, 50), b: (50, 50)}, 0.0)
    assert watch.tick(2.0) == []


def test_busy_failing_one_does_not_hide_another() -> None:
    replicas = fleet(7)  # failing fast looks idle: it draws requests
    watch = OutlierWatch[Replica]()
    outcomes = dict.fromkeys(replicas, (0, 50)) | {replicas[0]: (1000, 1000), replicas[1]: (50, 50)}
    count(watch, outcomes, 0.0)
    assert ejected(watch.tick(2.0)) == "ab"


@pytest.mark.parametrize("size", [2, 3, 5, 10])
@pytest.mark.parametrize("errors", [0.002, 0.1, 0.5, 0.9, 1.0])
def test_replicas_that_all_fail_alike_are_not_ejected(size: int, errors: float) -> None:
    rng, replicas, watch = random.Random(size), fleet(size), OutlierWatch[Replica]()
    out = ""
    for second in range(200):
        for replica in replicas:
            for _ in range(rng.choice((5, 20))):
                watch.record(replica, rng.random() >= errors, 0.01, second)
        out += ejected(watch.tick(second + 0.9))
    assert out == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda x: (min(x), max(x))),
            min_size=1,
            max_size=7,
        ),
        max_size=6,
    )
)
def test_ejected_replicas_are_at_most_a_third_or_one_and_never_all(
    windows: list[list[tuple[int, int]]],
) -> None:
    replicas, watch, out = fleet(7), OutlierWatch[Replica](), set[str]()
    for n, window in enumerate(windows):
        count(watch, dict(zip(replicas, window, strict=False)), n * 0.001)
        for verdict in watch.tick(n * 0.001 + 2.0):
            if isinstance(verdict, Outlier):
                verdict.replica.health.eject(n * 0.001 + 2.0)
                out.add(verdict.replica.name)
    known = max((len(window) for window in windows), default=0)
    assert len(out) <= max(1, int(0.33 * known))
    assert len(out) < max(2, known)


def test_replica_that_is_gone_is_forgotten() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 20), b: (0, 20), c: (20, 20)}, 0.0)
    c.is_gone = True
    assert watch.tick(2.0) == []
    assert repr(watch) == "OutlierWatch(0 requests at 2 hosts)"


def test_replica_without_requests_for_long_is_forgotten() -> None:
    a, b = fleet(2)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 20), b: (0, 20)}, 0.0)
    for n in range(1, 8):
        watch.tick(2.0 * n)
        count(watch, {a: (0, 60)}, 2.0 * n)
    assert repr(watch) == "OutlierWatch(60 requests at 1 hosts)"


def test_replica_that_is_slow_beside_the_others_is_reported_once_and_not_ejected() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    found: list[Outlier[Replica] | Slow[Replica]] = []
    for second in range(10):
        for replica in (a, b, c):
            for _ in range(30):
                watch.record(replica, True, 0.1 if replica is c else 0.01, second)
        found += watch.tick(second + 0.9)
    assert found == [Slow(c, "half of its answers take over 100 ms, 10 ms elsewhere")]


def test_clock_that_is_set_back_wedges_nothing() -> None:
    a, b, c = fleet(3)
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 20), b: (0, 20), c: (20, 20)}, 1000.0)
    assert watch.tick(0.0) == []
    assert ejected(watch.tick(2.0)) == "c"


def test_panic_begins_below_half_of_the_replicas() -> None:
    assert not is_panic(2, 4)
    assert not is_panic(2, 3)
    assert is_panic(1, 3)
    assert not is_panic(1, 2)
    assert not is_panic(0, 0)
