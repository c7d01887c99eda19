from __future__ import annotations

import random
from collections import Counter

import pytest
from replicas import fleet, lose, picks

from capamesh.router.policies.round_robin import RoundRobin


def test_replicas_take_turns_from_a_start_that_the_seed_gives() -> None:
    assert picks(RoundRobin(random.Random(1)), fleet("abcd"), 10) == "abcdabcdab"
    starts = Counter(
        picks(RoundRobin(random.Random(seed)), fleet("abcd"), 1) for seed in range(400)
    )
    assert all(70 < starts[one] < 130 for one in "abcd")


def test_replica_that_is_not_eligible_is_passed_over_and_keeps_its_place() -> None:
    replicas = fleet("abcd")
    policy = RoundRobin(random.Random(1))
    assert picks(policy, replicas, 1) == "a"
    link = replicas[1].endpoint.link
    lose(replicas[1])
    assert picks(policy, replicas, 4) == "cdac"
    replicas[1].endpoint.link = link
    assert picks(policy, replicas, 4) == "dabc"
    lose(*replicas)
    assert picks(policy, replicas, 2) == "--"


@pytest.mark.parametrize(
    ("served", "change", "follows"),
    [
        ("ab", "abcdef", "cdefab"),  # newcomers at the end wait for their turn
        ("ab", "xabcd", "cdxabc"),  # who stands before the turn moves it not
        ("ab", "abxcd", "cdabxc"),
        ("ab", "acd", "cdac"),  # the last served has left
        ("ab", "cd", "cdcd"),
        ("ab", "abd", "dabd"),  # the next has left
        ("abcd", "abd", "abda"),
        ("abc", "ab", "abab"),
        ("abc", "c", "cc"),
        ("ab", "xyz", "xyzx"),  # nobody is left of those that were known
    ],
)
def test_turn_stays_where_it_was_when_replicas_come_and_go(
    served: str, change: str, follows: str
) -> None:
    by_name = dict(zip("abcdefxyz", fleet("abcdefxyz"), strict=True))
    policy = RoundRobin(random.Random(1))
    assert picks(policy, tuple(by_name[one] for one in "abcd"), len(served)) == served
    assert picks(policy, tuple(by_name[one] for one in change), len(follows)) == follows


def test_empty_fleet_in_between_forgets_nothing() -> None:
    replicas = fleet("abcd")
    policy = RoundRobin(random.Random(1))
    assert picks(policy, (), 1) == "-"
    assert picks(policy, replicas, 2) == "ab"
    assert picks(policy, (), 1) == "-"
    assert picks(policy, replicas, 2) == "cd"
