from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import fleet, name

from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.link_wait import LinkWait
from capamesh.router.resilience.outliers import OutlierWatch
from capamesh.router.resilience.verdicts import Outlier, Slow


def count(
    watch: OutlierWatch[Replica], outcomes: Mapping[Replica, tuple[int, int]], now_s: float
) -> None:
    """Record (failures, requests) of each replica."""
    for replica, (failures, requests) in outcomes.items():
        for n in range(requests):
            watch.record(replica, n >= failures, 0.01, now_s)


def ejected(verdicts: list[Outlier[Replica] | Slow[Replica]]) -> str:
    return "".join(name(v.replica) for v in verdicts if isinstance(v, Outlier))


def test_replica_is_not_judged_by_fewer_than_ten_requests() -> None:
    a, b, c = fleet("abc")
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 9), b: (0, 9), c: (9, 9)}, 0.0)
    assert watch.tick(60.0) == []
    assert watch.tick(70.0) == []


def test_third_at_most_and_one_in_any_case_the_worst_first() -> None:
    for size, bad, expected in ((2, 1, 1), (3, 2, 1), (5, 2, 1), (7, 3, 2), (10, 4, 3)):
        replicas = fleet("abcdefghij"[:size])
        watch = OutlierWatch[Replica]()
        outcomes = dict.fromkeys(replicas, (0, 100))
        outcomes |= {replica: (90 + n, 100) for n, replica in enumerate(replicas[:bad])}
        count(watch, outcomes, 0.0)
        out = ejected(watch.tick(2.0))
        assert out == "".join(name(replica) for replica in replicas[:bad][::-1])[:expected]


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
    replicas, watch, out = fleet("abcdefg"), OutlierWatch[Replica](), set[str]()
    for n, window in enumerate(windows):
        count(watch, dict(zip(replicas, window, strict=False)), n * 0.001)
        for verdict in watch.tick(n * 0.001 + 2.0):
            if isinstance(verdict, Outlier):
                verdict.replica.health.eject(n * 0.001 + 2.0)
                out.add(name(verdict.replica))
    known = max((len(window) for window in windows), default=0)
    assert len(out) <= max(1, int(0.33 * known))
    assert len(out) < max(2, known)


def test_clock_that_is_set_back_wedges_nothing_and_a_replica_that_is_gone_is_forgotten() -> None:
    a, b, c = fleet("abc")
    watch = OutlierWatch[Replica]()
    count(watch, {a: (0, 20), b: (0, 20), c: (20, 20)}, 1000.0)
    assert watch.tick(0.0) == []
    assert ejected(watch.tick(2.0)) == "c"
    count(watch, {a: (0, 20), b: (0, 20), c: (20, 20)}, 2.0)
    c.is_gone = True
    assert watch.tick(4.0) == []
    assert repr(watch) == "OutlierWatch(0 requests at 2 hosts)"


def test_wait_has_room_for_so_many_and_so_many_bytes_and_for_any_one_alone() -> None:
    links = LinkWait(most=2, most_bytes=100)
    assert links.has_room(1000)
    links.add("a", lambda: None, 60)
    assert (links.has_room(40), links.has_room(41)) == (True, False)
    links.add("a", lambda: None, 50)  # the same one again
    assert links.has_room(50)
    links.add("b", lambda: None, 10)
    assert not links.has_room(0)
    links.remove("a")
    assert (links.has_room(90), links.has_room(91)) == (True, False)
    links.linked()
    assert (len(links), links.has_room(1000)) == (0, True)
