from __future__ import annotations

import random
from collections import Counter

from replicas import fleet, lose, picks

from capamesh.router.policies.random_choice import RandomChoice


def test_picks_follow_the_seed_exactly() -> None:
    assert picks(RandomChoice(random.Random(7)), fleet("abcd"), 24) == "bacacbacabaabdaacdcbdadb"


def test_each_eligible_replica_is_as_likely_however_busy() -> None:
    replicas = fleet([0, 9, 0, 5, 100])
    lose(replicas[2])
    counts = Counter(picks(RandomChoice(random.Random(1)), replicas, 4000))
    assert counts.keys() == set("0134")
    assert all(900 < count < 1100 for count in counts.values())
