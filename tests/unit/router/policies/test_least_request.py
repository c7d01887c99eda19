from __future__ import annotations

import random
from collections import Counter

from replicas import fleet, lose, picks

from capamesh.router.policies.least_request import LeastRequest


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
