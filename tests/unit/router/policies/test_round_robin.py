from __future__ import annotations

import random
from collections import Counter

from replicas import fleet, picks

from capamesh.router.policies.round_robin import RoundRobin


def test_replicas_take_turns_from_a_start_that_the_seed_gives() -> None:
    assert picks(RoundRobin(random.Random(1)), fleet("abcd"), 10) == "abcdabcdab"
    starts = Counter(
        picks(RoundRobin(random.Random(seed)), fleet("abcd"), 1) for seed in range(400)
    )
    assert all(70 < starts[one] < 130 for one in "abcd")
