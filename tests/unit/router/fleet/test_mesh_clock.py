from __future__ import annotations

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
