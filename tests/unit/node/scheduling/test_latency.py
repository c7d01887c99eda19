from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.scheduling.latency import PAST_S, QueueDelay


def seconds(delay: QueueDelay, now_s: float) -> float:
    delay.seen_s = now_s
    return delay.seconds()


def test_runs_that_end_together_count_as_one() -> None:
    delay = QueueDelay()
    delay.observe(0.010, 1.0)
    for _ in range(1000):
        delay.observe(9.0, 1.0)
    assert seconds(delay, 1.0) == 0.010


def test_delay_falls_to_nothing_while_nobody_comes_and_begins_anew() -> None:
    delay = QueueDelay()
    delay.observe(0.4, 1.0)
    assert [seconds(delay, 1.0 + PAST_S * part) for part in (0.25, 0.5, 1.0, 9.0)] == pytest.approx(
        [0.3, 0.2, 0.0, 0.0]
    )
    delay.observe(0.1, 1.0 + PAST_S)
    assert seconds(delay, 1.0 + PAST_S) == 0.1


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9)), max_size=20))
def test_delay_is_within_those_that_were_told_whatever_the_clock_does(
    told: list[tuple[float, float]],
) -> None:
    delay = QueueDelay()
    for longest_s, now_s in told:
        delay.observe(longest_s, now_s)
        known = seconds(delay, now_s)
        assert math.isfinite(known)
        assert 0.0 <= known <= max(each for each, _ in told) * (1 + 1e-9)
