from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.bulk_deaths import MOST, WITHIN_S, BulkDeaths


def test_ends_are_put_down_to_bulk_requests_up_to_a_number_and_then_to_none_for_a_while() -> None:
    deaths = BulkDeaths()
    assert [deaths.excuse(float(at)) for at in range(MOST)] == [True] * MOST
    assert not deaths.excuse(float(MOST))
    assert deaths.left_s(float(MOST)) == WITHIN_S - MOST
    assert not deaths.excuse(WITHIN_S - 0.001)
    assert deaths.excuse(WITHIN_S)  # the first is too long ago
    assert not deaths.excuse(WITHIN_S + 0.5)
    assert deaths.excuse(WITHIN_S + 1.0)


@given(st.lists(st.floats(0.0, 2 * WITHIN_S)))
def test_no_more_are_in_any_such_time(times_s: list[float]) -> None:
    deaths = BulkDeaths()
    excused = [now_s for now_s in sorted(times_s) if deaths.excuse(now_s)]
    for first_s, later_s in zip(excused, excused[MOST:], strict=False):
        assert later_s >= first_s + WITHIN_S
    assert len(deaths._times_s) <= MOST
