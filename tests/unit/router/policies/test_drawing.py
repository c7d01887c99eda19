from __future__ import annotations

import math
import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, Draws, fleet, lose, name, picks, replica, usable

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.latency_ewma import DEFAULT_RTT_S, PENALTY_S, cost_s, observe
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.cheapest import Cheapest
from capamesh.router.policies.drawing import draw_one, draw_some, draw_two
from capamesh.router.policies.least_request import LeastRequest
from capamesh.router.policies.p2c import PowerOfTwo
from capamesh.router.policies.peak_ewma import PeakEwma
from capamesh.router.policies.round_robin import RoundRobin


def pair(drawn: tuple[Replica, Replica] | None) -> str:
    return "-" if drawn is None else name(drawn[0]) + name(drawn[1])


@pytest.mark.parametrize("gone", [0, 3, 9])
def test_every_pair_of_eligible_replicas_is_as_likely_however_many_are_not(gone: int) -> None:
    replicas = fleet("abcd" + "zyxwvutsr"[:gone])
    lose(*replicas[4:])
    draw = random.Random(5).random
    pairs = Counter(pair(draw_two(replicas, usable, draw)) for _ in range(6000))
    assert pairs.keys() == {a + b for a, b in permutations("abcd", 2)}
    assert all(400 < count < 600 for count in pairs.values())
    ones = Counter(name(draw_one(replicas, usable, draw)) for _ in range(4000))
    assert ones.keys() == set("abcd")
    assert all(900 < count < 1100 for count in ones.values())


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 2**32), st.integers(1, 12))
def test_drawn_replicas_are_eligible_distinct_and_as_many_as_there_are(
    up: list[bool], seed: int, wanted: int
) -> None:
    replicas = fleet([0] * len(up))
    lose(*[replica for replica, is_up in zip(replicas, up, strict=True) if not is_up])
    eligible = {replica for replica in replicas if usable(replica)}
    draw = random.Random(seed).random
    one, two, some = (
        draw_one(replicas, usable, draw),
        draw_two(replicas, usable, draw),
        draw_some(replicas, usable, draw, wanted),
    )
    assert (one in eligible) if eligible else (one is two is None)
    if two is not None:
        assert set(two) <= eligible
        assert len(set(two)) == min(2, len(eligible))
    assert len(set(some)) == len(some) == min(wanted, len(eligible))
    assert set(some) <= eligible


@pytest.mark.parametrize(
    ("numbers", "drawn"),
    [
        ((0.0, 0.0), "ab"),
        ((0.0, 0.5), "ac"),
        ((0.5, 0.0), "ba"),
        ((0.5, 0.5), "bc"),
        ((0.9, 0.0), "ca"),
        ((0.9, 0.5), "cb"),
    ],
)
def test_less_busy_of_the_two_drawn_wins_and_the_first_of_equals(
    numbers: tuple[float, float], drawn: str
) -> None:
    for busy in drawn:
        replicas = tuple(replica(one, rif=5 if one == busy else 2) for one in "abc")
        picked = PowerOfTwo(Draws(*numbers)).pick(replicas, usable, SHAPE, 0.0)
        assert name(picked) == drawn.replace(busy, "")
    assert name(PowerOfTwo(Draws(*numbers)).pick(fleet("abc"), usable, SHAPE, 0.0)) == drawn[0]


def test_least_busy_of_all_is_picked_in_a_small_fleet() -> None:
    replicas = fleet([3, 2, 4, 1, 2])
    policy = LeastRequest(random.Random(1))
    assert picks(policy, replicas, 5) == "33333"
    lose(replicas[3])
    assert picks(policy, replicas, 6) == "414141"


@pytest.mark.parametrize("policy", [LeastRequest, RoundRobin])
def test_idle_small_fleet_is_served_in_turn_from_a_start_that_the_seed_gives(
    policy: type[LeastRequest | RoundRobin],
) -> None:
    assert picks(policy(random.Random(1)), fleet("abcd"), 10) == "abcdabcdab"
    starts = Counter(picks(policy(random.Random(seed)), fleet("abcd"), 1) for seed in range(400))
    assert all(70 < starts[one] < 130 for one in "abcd")


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(-1, 50), st.booleans()), min_size=1),
    st.floats(0, 100),
)
def test_average_stays_between_nothing_and_the_highest_seen_though_the_clock_be_set_back(
    seen: list[tuple[float, float, bool]], later_s: float
) -> None:
    one = replica()
    now_s = 1000.0
    highest_s = 0.0
    for latency_s, step_s, is_failure in seen:
        now_s += step_s
        if is_failure:
            one.failed_s = now_s
            highest_s = max(highest_s, PENALTY_S)
        else:
            one.proved_s = now_s
            observe(one, latency_s, now_s)
            highest_s = max(highest_s, latency_s)
        if one.peak_seen_s == -math.inf:
            highest_s = max(highest_s, DEFAULT_RTT_S)
        assert 0 <= cost_s(one, now_s) <= highest_s * (1 + 1e-12)
        assert cost_s(one, now_s - later_s) <= highest_s * (1 + 1e-12)
    assert cost_s(one, now_s + later_s) <= cost_s(one, now_s)


def test_newcomer_gets_one_request_and_no_other_until_it_has_answered() -> None:
    replicas = fleet("abc")
    for known in replicas[:2]:
        observe(known, 0.01, 0.0)
    policy = PeakEwma(random.Random(1))
    assert "c" in picks(policy, replicas, 10)
    replicas[2].rif = 1
    assert "c" not in picks(policy, replicas, 50)
    replicas[2].rif = 0
    observe(replicas[2], 0.01, 0.0)
    assert set(picks(policy, replicas, 50)) == {"a", "b", "c"}


def test_replica_that_fails_fast_is_tried_by_one_request_a_second_until_it_answers() -> None:
    replicas = fleet("abc")
    failing = replicas[0]
    for one in replicas:
        observe(one, 0.01, 0.0)
    policy = PeakEwma(random.Random(1))
    failing.failed_s = 0.0
    for now_s in (0.0, 0.9):
        assert "a" not in picks(policy, replicas, 50, now_s=now_s)
    assert "a" in picks(policy, replicas, 10, now_s=1.0)
    failing.rif = 1
    assert "a" not in picks(policy, replicas, 50, now_s=1.0)
    failing.rif, failing.failed_s = 0, 1.1
    assert "a" not in picks(policy, replicas, 50, now_s=2.0)
    failing.proved_s = 2.2
    for one in replicas:
        observe(one, 0.01, 2.2)
    assert picks(policy, replicas, 60, now_s=2.2).count("a") > 10


def reported(peer: str, price: float, latency_us: int, **load: int) -> Replica:
    return replica(peer, price=price, load=LoadReport(latency_us=latency_us, **load))


def test_cheapest_within_the_band_of_the_fastest_is_picked() -> None:
    replicas = (reported("a", 3.0, 10_000), reported("b", 2.0, 15_000), reported("c", 1.0, 15_001))
    for is_lost, wanted in ((False, "b"), (True, "c")):  # the band is that of the eligible fastest
        if is_lost:
            lose(replicas[0])
        for seed in range(20):
            assert picks(Cheapest(random.Random(seed)), replicas, 1) == wanted


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
