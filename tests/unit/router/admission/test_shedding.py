from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.router.admission.shedding import shed_probability


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
