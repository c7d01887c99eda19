from __future__ import annotations

import random

import pytest
from replicas import SHAPE, Draws, fleet, name, picks, replica, usable

from capamesh.router.policies.p2c import PowerOfTwo


def test_picks_follow_the_seed_exactly() -> None:
    assert picks(PowerOfTwo(random.Random(7)), fleet("abcd"), 24) == "bccaaabaccddabaccacbbdac"


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
