from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.router.admission.shedding import Rank, Shedding, rank_of, shed_probability


@pytest.mark.parametrize(
    ("priority", "rank"),
    [
        (0, Rank.URGENT),
        (127, Rank.URGENT),
        (128, Rank.ONLINE),
        (129, Rank.LOW),
        (255, Rank.LOW),
    ],
)
def test_request_has_a_rank(priority: int, rank: Rank) -> None:
    assert rank_of(priority) is rank


@pytest.mark.parametrize(
    ("level", "priority", "p"),
    [
        (0.0, 255, 0.0),
        (0.1, 255, 0.003),
        (0.2, 255, 0.096),
        (0.3, 255, 0.729),
        (0.32, 255, 1.0),
        (0.5, 192, 0.5536),
        (0.5, 129, 0.0327),
        (-0.1, 255, 0.0),
    ],
)
def test_fuller_and_the_lower_the_more_are_shed(level: float, priority: int, p: float) -> None:
    assert shed_probability(level, priority) == pytest.approx(p, abs=5e-5)


@given(st.floats(0, 2), st.floats(0, 2), st.integers(129, 255), st.integers(129, 255))
def test_probability_is_one_and_rises_with_level_and_priority(
    level: float, other_level: float, priority: int, other: int
) -> None:
    low, high = sorted([level, other_level])
    first, last = sorted([priority, other])
    p = shed_probability(low, first)
    assert 0 <= p <= shed_probability(high, first) <= 1
    assert p <= shed_probability(low, last)
    assert p <= shed_probability(low, 255)


def never() -> float:
    raise AssertionError("chance decides nothing here")


def test_online_requests_are_shed_only_when_all_is_full() -> None:
    shedding = Shedding()
    assert not shedding.is_shed(Rank.ONLINE, 128, 0.999, 0.0, never)
    assert shedding.is_shed(Rank.ONLINE, 128, 1.0, 0.0, never)


def test_urgent_ones_are_shed_last_and_have_a_reserve_while_they_come() -> None:
    shedding = Shedding()
    assert not shedding.is_shed(Rank.URGENT, 1, 1.04, 5.0, never)
    assert shedding.is_shed(Rank.URGENT, 1, 1.05, 5.0, never)
    assert not shedding.is_shed(Rank.ONLINE, 128, 0.95, 5.0, never)
    shedding.urgent_came(5.0)
    assert shedding.is_shed(Rank.ONLINE, 128, 0.95, 14.9, never)
    assert not shedding.is_shed(Rank.ONLINE, 128, 0.94, 14.9, never)
    assert not shedding.is_shed(Rank.ONLINE, 128, 0.99, 15.0, never)


def test_low_ones_are_shed_by_chance_and_all_when_online_ones_are() -> None:
    shedding = Shedding()
    assert shedding.is_shed(Rank.LOW, 255, 0.3, 0.0, lambda: 0.728)
    assert not shedding.is_shed(Rank.LOW, 255, 0.3, 0.0, lambda: 0.730)
    assert shedding.is_shed(Rank.LOW, 129, 1.0, 0.0, never)
    assert not shedding.is_shed(Rank.LOW, 255, 0.0, 0.0, never)


def test_seed_decides() -> None:
    shedding, draw = Shedding(), random.Random(7).random
    shed = "".join(str(int(shedding.is_shed(Rank.LOW, 200, 0.45, 0.0, draw))) for _ in range(20))
    assert shed == "11010110111110110001"


def test_limit_is_where_half_of_a_low_class_is_shed() -> None:
    shedding = Shedding()
    assert shedding.limit(Rank.URGENT, 0, 0.0) == 1.05
    assert shedding.limit(Rank.ONLINE, 128, 0.0) == 1.0
    for priority in (255, 140):
        limit = shedding.limit(Rank.LOW, priority, 0.0)
        assert shed_probability(limit, priority) == pytest.approx(0.5)


def test_reserve_holds_from_the_urgent_request_on_and_not_before_it() -> None:
    shedding = Shedding()
    shedding.urgent_came(5.0)
    assert shedding.limit(Rank.ONLINE, 128, 5.0) == 0.95
    assert shedding.limit(Rank.ONLINE, 128, 14.9) == 0.95
    assert shedding.limit(Rank.ONLINE, 128, 15.0) == 1.0
    assert shedding.limit(Rank.ONLINE, 128, 4.9) == 1.0  # a clock that was set back


def test_draw_of_just_the_probability_sheds_nothing() -> None:
    p = shed_probability(0.3, 255)
    assert not Shedding().is_shed(Rank.LOW, 255, 0.3, 0.0, lambda: p)


def test_priority_next_to_the_usual_one_is_shed_as_the_formula_without_a_factor_says() -> None:
    assert shed_probability(0.5, 128) == 0.5**5
    assert shed_probability(0.5, 255) == 1.0
