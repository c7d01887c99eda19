"""A store that is slow is left alone, and tried again from time to time."""

from __future__ import annotations

from capamesh.router.cache.breaker import LATE_IN_A_ROW, MOST_PAUSE_S, PAUSE_S, Breaker


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(LATE_IN_A_ROW):
        assert breaker.may_ask(now_s)
        breaker.was_late(now_s)
    return breaker


def test_store_that_was_late_often_in_a_row_is_left_alone() -> None:
    breaker = Breaker()
    for _ in range(LATE_IN_A_ROW - 1):
        breaker.was_late(0.0)
    assert breaker.may_ask(0.0)
    breaker.was_in_time()
    for _ in range(LATE_IN_A_ROW - 1):
        breaker.was_late(0.0)
    assert not breaker.is_open(0.0)
    breaker.was_late(0.0)
    assert breaker.is_open(0.0)
    assert not breaker.may_ask(PAUSE_S - 0.001)


def test_pauses_grow_up_to_a_bound_while_trials_are_late() -> None:
    breaker = opened()
    now_s, pauses = 0.0, []
    for _ in range(8):
        pause_s = 0.0
        while not breaker.may_ask(now_s + pause_s):
            pause_s += 0.5
        now_s += pause_s
        pauses.append(pause_s)
        breaker.was_late(now_s)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, MOST_PAUSE_S]
    breaker.was_in_time()
    for _ in range(LATE_IN_A_ROW):
        breaker.was_late(now_s)
    assert breaker.may_ask(now_s + PAUSE_S)
