from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, lose, picks, replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.cheapest import Cheapest


def reported(
    peer: str, price: float, latency_us: int, *, rif: int = 0, in_flight: int = 0, limit: int = 4
) -> Replica:
    return replica(
        peer, price=price, rif=rif, load=LoadReport(in_flight, 0, limit, latency_us=latency_us)
    )


def only(*replicas: Replica, size_bytes: int = 8) -> str:
    """Return who is picked, which must be the same whatever the seed."""
    seen = {
        picks(Cheapest(random.Random(seed)), replicas, 1, SHAPE.replace(size_bytes=size_bytes))
        for seed in range(20)
    }
    assert len(seen) == 1
    return seen.pop()


def test_cheapest_within_the_band_of_the_fastest_is_picked() -> None:
    replicas = (reported("a", 3.0, 10_000), reported("b", 2.0, 15_000), reported("c", 1.0, 15_001))
    assert only(*replicas) == "b"
    lose(replicas[0])
    assert only(*replicas) == "c"  # the band is that of the fastest which is eligible


def test_few_milliseconds_more_than_the_fastest_are_as_good_however_quick_that_is() -> None:
    dear, cheap = reported("d", 1.5, 100), reported("c", 0.5, 5100)
    assert only(dear, cheap) == "c"  # 51 times as slow, and 5 ms
    assert only(dear, reported("c", 0.5, 5101)) == "d"
    assert (
        only(reported("d", 1.5, 20_000), reported("c", 0.5, 30_000)) == "c"
    )  # the band is the wider one


def test_way_there_counts_with_the_service() -> None:
    near, far = replica("n", price=3.0, row_us=10_000), replica("f", price=1.0, row_us=10_000)
    far.endpoint.network.rtt_s = 0.004
    assert only(near, far) == "f"
    far.endpoint.network.bytes_per_s = 1e6
    assert only(near, far, size_bytes=500) == "f"
    assert only(near, far, size_bytes=1500) == "n"  # 15.5 ms against 10


def test_less_busy_of_equal_prices_is_picked_and_idle_ones_share() -> None:
    assert only(reported("a", 1.0, 9, rif=1, in_flight=1), reported("b", 1.0, 9)) == "b"
    counts = Counter(
        picks(Cheapest(random.Random(1)), tuple(reported(one, 1.0, 9) for one in "abcd"), 2000)
    )
    assert all(400 < counts[one] < 600 for one in "abcd")


@pytest.mark.parametrize(("rif", "in_flight"), [(0, 4), (0, 7), (4, 0), (4, 2)])
def test_replica_that_would_refuse_is_left_out(rif: int, in_flight: int) -> None:
    full = reported("f", 0.1, 10, rif=rif, in_flight=in_flight)
    assert only(full, reported("b", 2.0, 90_000)) == "b"
    assert only(full, replica("n", price=9.0, rif=1)) == "n"  # of unknown latency, and at work
    assert only(full, reported("e", 2.0, 90_000, rif=6, in_flight=6)) == ("f" if rif < 6 else "e")


def test_requests_sent_since_the_report_are_waited_for() -> None:
    busy = reported("b", 1.0, 10_000, rif=1, in_flight=1)
    other = reported("o", 2.0, 13_000)
    assert only(busy, other) == "b"
    busy.rif = 2  # 20 ms against 13: out of the band
    assert only(busy, other) == "o"


def test_replica_that_reported_nothing_is_tried_with_one_request_at_a_time() -> None:
    known, unknown = reported("k", 2.0, 10_000), replica("u", price=1.0)
    assert only(known, unknown) == "u"
    unknown.rif = 1
    assert only(known, unknown) == "k"
    dear = replica("d", price=3.0)
    assert only(known, dear) == "k"
    assert only(replica("x", rif=2), replica("y", rif=1), replica("z", rif=3)) == "y"


def test_eight_of_a_large_fleet_are_compared() -> None:
    replicas = tuple(reported(str(index), float(index), 10) for index in range(80))
    policy = Cheapest(random.Random(1))
    asked: list[Replica] = []

    def is_eligible(one: Replica) -> bool:
        asked.append(one)
        return True

    for _ in range(200):
        asked.clear()
        picked = policy.pick(replicas, is_eligible, SHAPE, 0.0)
        assert len(asked) == 8
        assert picked is min(asked, key=replicas.index)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 3), st.integers(0, 5)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**32),
)
def test_pick_is_the_cheapest_in_the_band_and_not_full_while_another_is_not(
    drawn: list[tuple[int, int, int, int]], seed: int
) -> None:
    replicas = tuple(
        reported(str(index), float(price), latency_us, in_flight=in_flight, limit=limit)
        for index, (price, latency_us, in_flight, limit) in enumerate(drawn)
    )
    picked = Cheapest(random.Random(seed)).pick(replicas, lambda _: True, SHAPE, 0.0)
    assert picked is not None
    free = [one for one in replicas if not 0 < one.load.limit <= one.load.in_flight]
    if free:
        assert picked in free
        known = [one for one in free if one.load.latency_us]
        fastest_us = min((one.load.latency_us for one in known), default=0)
        limit_us = max(1.5 * fastest_us, fastest_us + 5000)
        band = [one for one in free if one.load.latency_us <= limit_us]
        assert picked in band
        assert picked.advert.price_per_million == min(o.advert.price_per_million for o in band)
