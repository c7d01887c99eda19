from __future__ import annotations

import random
from collections import Counter

from replicas import SHAPE, fleet, lose, name, picks

from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.least_request import SMALL_FLEET, LeastRequest


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


def test_equally_busy_replicas_take_turns_whoever_stands_between_them() -> None:
    replicas = fleet([0, 9, 9, 9, 0, 9])
    assert Counter(picks(LeastRequest(random.Random(2)), replicas, 100)) == {"0": 50, "4": 50}


def test_fleet_that_shrinks_under_the_turn_is_served_on() -> None:
    policy = LeastRequest(random.Random(1))
    assert picks(policy, fleet("abcd"), 4) == "abcd"
    assert picks(policy, fleet("ab"), 3) == "aba"
    assert picks(policy, (), 1) == "-"


def test_eligibility_is_asked_only_of_those_that_would_be_picked() -> None:
    asked: list[str] = []

    def is_eligible(one: Replica) -> bool:
        asked.append(name(one))
        return True

    LeastRequest(random.Random(1)).pick(fleet([5, 7, 6, 2, 9]), is_eligible, SHAPE, 0.0)
    assert asked == ["0", "3"]


def test_least_busy_of_two_drawn_is_picked_in_a_large_fleet() -> None:
    replicas = fleet([0] + [4] * SMALL_FLEET)
    counts = Counter(picks(LeastRequest(random.Random(1)), replicas, 1700).replace("1", ""))
    assert 150 < counts["0"] < 350  # every drawing of two meets it with chance 2 in 17
