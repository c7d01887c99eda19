from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.fleet.clocks import MeshClock


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=30))
def test_mesh_time_is_the_time_that_was_up_and_never_goes_back(
    steps: list[tuple[bool, int]],
) -> None:
    now_s, up_s, is_up = 1000, 0, False
    clock = MeshClock(now_s)
    for turns_up, wait_s in steps:
        (clock.resume if turns_up else clock.pause)(now_s)
        is_up = turns_up
        for _ in range(wait_s):
            now_s += 1
            up_s += is_up
            assert clock.now_s(now_s) == up_s


def test_time_in_which_the_process_itself_was_stopped_does_not_count() -> None:
    clock = MeshClock(100.0)
    clock.resume(100.0)
    assert clock.now_s(100.5) == 0.5
    assert clock.now_s(102.5) == 2.5
    assert clock.now_s(142.5) == 2.5
    assert clock.now_s(142.7) == pytest.approx(2.7)
    assert clock.now_s(143.0) == 3.0
    clock.pause(143.0)
    assert clock.now_s(243.0) == 3.0
    clock.resume(243.0)
    assert clock.now_s(243.5) == 3.5


def test_message_heard_after_a_stop_and_before_the_tick_is_not_dated_into_the_future() -> None:
    clock = MeshClock(0.0)
    clock.resume(0.0)
    assert clock.now_s(0.5) == 0.5
    assert clock.now_s(300.5) == 0.5
    assert clock.now_s(300.75) == 0.75
    assert clock.now_s(301.0) == 1.0
