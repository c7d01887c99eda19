from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.policies import POLICIES, PowerOfTwo, RequestShape, make_policy

SHAPE = RequestShape(ModelName("m"), ModelVersion(""), 8)


@dataclass(frozen=True)
class Load:
    name: str
    rif: int = 0


class Draws(random.Random):
    """Gives the numbers it was made with."""

    def __new__(cls, *_: float) -> Draws:
        return super().__new__(cls)

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0)


def test_picks_follow_the_seed_exactly() -> None:
    policy = PowerOfTwo(random.Random(7))
    candidates = [Load(name) for name in "abcd"]
    picks = "".join(policy.pick(candidates, SHAPE).name for _ in range(24))
    assert picks == "bccaaabaccddabaccacbbdac"


def test_idle_candidates_share_about_evenly() -> None:
    policy = PowerOfTwo(random.Random(1))
    candidates = [Load(name) for name in "abcd"]
    counts = Counter(policy.pick(candidates, SHAPE).name for _ in range(4000))
    assert all(900 < counts[name] < 1100 for name in "abcd")


@pytest.mark.parametrize(
    ("first", "second", "drawn"),
    [
        (0.0, 0.0, "ab"),
        (0.0, 0.999, "ac"),
        (0.5, 0.0, "ba"),
        (0.5, 0.5, "bc"),
        (0.999, 0.999, "cb"),
    ],
)
def test_two_different_ones_are_drawn_and_the_less_busy_wins(
    first: float, second: float, drawn: str
) -> None:
    for busy in drawn:
        loads = [Load(name, 5 if name == busy else 2) for name in "abc"]
        picked = PowerOfTwo(Draws(first, second)).pick(loads, SHAPE)
        assert picked.name == drawn.replace(busy, "")
    equal = [Load(name, 3) for name in "abc"]
    assert PowerOfTwo(Draws(first, second)).pick(equal, SHAPE).name == drawn[0]


def test_the_busiest_of_all_is_never_picked_and_one_alone_always_is() -> None:
    policy = PowerOfTwo(random.Random(3))
    candidates = [Load("busy", 9), Load("a", 1), Load("b", 0)]
    assert "busy" not in {policy.pick(candidates, SHAPE).name for _ in range(300)}
    assert policy.pick(candidates[:1], SHAPE).name == "busy"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 2**32))
def test_the_pick_is_one_of_those_given(loads: list[int], seed: int) -> None:
    candidates = [Load(str(index), rif) for index, rif in enumerate(loads)]
    assert PowerOfTwo(random.Random(seed)).pick(candidates, SHAPE) in candidates


def test_policies_are_made_by_name_and_an_unknown_name_lists_them() -> None:
    assert isinstance(make_policy("p2c", random.Random(0)), PowerOfTwo)
    assert list(POLICIES) == ["p2c"]
    with pytest.raises(ConfigError, match=r"policy 'best' is unknown; known: p2c"):
        make_policy("best", random.Random(0))
