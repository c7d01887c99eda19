from __future__ import annotations

import random
from collections import Counter

import pytest
from replicas import fleet, lose, picks

from capamesh.router.policies.round_robin import RoundRobin


def test_hosts_take_turns_from_a_start_that_the_seed_gives() -> None:
    assert picks(RoundRobin(random.Random(1)), fleet("abcd"), 10) == "abcdabcdab"
    starts = Counter(
        picks(RoundRobin(random.Random(seed)), fleet("abcd"), 1) for seed in range(400)
    )
    assert all(70 < starts[one] < 130 for one in "abcd")


def test_who_is_not_eligible_is_passed_over_and_keeps_its_place() -> None:
    hosts = fleet("abcd")
    policy = RoundRobin(random.Random(1))
    assert picks(policy, hosts, 1) == "a"
    link = hosts[1].candidate.link
    lose(hosts[1])
    assert picks(policy, hosts, 4) == "cdac"
    hosts[1].candidate.link = link
    assert picks(policy, hosts, 4) == "dabc"
    lose(*hosts)
    assert picks(policy, hosts, 2) == "--"


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
def test_the_turn_stays_where_it_was_when_hosts_come_and_go(
    served: str, change: str, follows: str
) -> None:
    by_name = dict(zip("abcdefxyz", fleet("abcdefxyz"), strict=True))
    policy = RoundRobin(random.Random(1))
    assert picks(policy, tuple(by_name[one] for one in "abcd"), len(served)) == served
    assert picks(policy, tuple(by_name[one] for one in change), len(follows)) == follows


def test_an_empty_fleet_in_between_forgets_nothing() -> None:
    hosts = fleet("abcd")
    policy = RoundRobin(random.Random(1))
    assert picks(policy, (), 1) == "-"
    assert picks(policy, hosts, 2) == "ab"
    assert picks(policy, (), 1) == "-"
    assert picks(policy, hosts, 2) == "cd"
