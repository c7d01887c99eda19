from __future__ import annotations

import random
from collections import Counter

import pytest
from replicas import SHAPE, Draws, fleet, name, picks, replica, usable

from capamesh.router.policies.p2c import PowerOfTwo


def test_picks_follow_the_seed_exactly() -> None:
    assert picks(PowerOfTwo(random.Random(7)), fleet("abcd"), 24) == "bccaaabaccddabaccacbbdac"


def test_idle_replicas_share_about_evenly() -> None:
    counts = Counter(picks(PowerOfTwo(random.Random(1)), fleet("abcd"), 4000))
    assert all(900 < counts[one] < 1100 for one in "abcd")


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


def test_busiest_of_all_is_never_picked_and_one_alone_always_is() -> None:
    policy = PowerOfTwo(random.Random(3))
    replicas = fleet([9, 1, 0])
    assert set(picks(policy, replicas, 300)) == {"1", "2"}
    assert picks(policy, replicas[:1], 3) == "000"
