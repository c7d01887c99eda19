from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, Draws, fleet, lose, name, picks, replica, usable

from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.drawing import draw_one, draw_some, draw_two
from capamesh.router.policies.least_request import LeastRequest
from capamesh.router.policies.p2c import PowerOfTwo
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


def test_idle_small_fleet_is_served_in_turn_from_a_start_that_the_seed_gives() -> None:
    assert picks(LeastRequest(random.Random(1)), fleet("abcd"), 9) == "abcdabcda"
    starts = Counter(
        picks(LeastRequest(random.Random(seed)), fleet("abcd"), 1) for seed in range(400)
    )
    assert all(70 < starts[one] < 130 for one in "abcd")


def test_replicas_take_turns_from_a_start_that_the_seed_gives() -> None:
    assert picks(RoundRobin(random.Random(1)), fleet("abcd"), 10) == "abcdabcdab"
    starts = Counter(
        picks(RoundRobin(random.Random(seed)), fleet("abcd"), 1) for seed in range(400)
    )
    assert all(70 < starts[one] < 130 for one in "abcd")
