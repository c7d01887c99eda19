"""How often nodes advertise, and from whose word they know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import FleetSize, advert_interval_s, newcomer_spread_s


@pytest.mark.parametrize(
    ("nodes", "interval_s"),
    [
        (1, 10),
        (100, 10),
        (101, 11),
        (1_200, 120),
        (2**63 - 1, 120),
    ],
)
def test_fleet_says_ten_adverts_a_second_between_10_and_120_s(nodes: int, interval_s: int) -> None:
    assert advert_interval_s(nodes) == interval_s


@pytest.mark.parametrize(
    ("nodes", "spread_s"),
    [(0, 0), (5, 0.05), (12_000, 120), (2**63 - 1, 120)],
)
def test_new_router_hears_a_hundred_nodes_a_second_and_all_within_an_interval(
    nodes: int, spread_s: float
) -> None:
    assert newcomer_spread_s(nodes) == spread_s


def test_number_that_is_not_reported_again_is_forgotten_within_ten_minutes() -> None:
    reported = FleetSize()
    reported.reported(1_000, 1.0)
    reported.reported(20, 290.0)
    reported.reported(40, 310.0)  # the second half begins
    assert reported.at(600.0) == 1_000
    assert reported.at(601.0) == 40
    assert reported.at(900.0) == 40
    assert reported.at(901.0) == 0
    reported.reported(7, 902.0)
    assert reported.at(902.0) == 7
    assert reported.at(5_000.0) == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.integers(0, 2_000)),
        min_size=1,
        max_size=30,
    )
)
def test_number_counts_for_five_minutes_at_least_and_for_ten_at_most(
    words: list[tuple[float, int]],
) -> None:
    reported, now_s, said = FleetSize(), 0.0, list[tuple[float, int]]()
    for wait_s, nodes in words:
        now_s += wait_s
        must = max((n for at_s, n in said if now_s - at_s < 300), default=0)
        may = max((n for at_s, n in said if now_s - at_s <= 600.001), default=0)
        assert must <= reported.at(now_s) <= may
        reported.reported(nodes, now_s)
        said.append((now_s, nodes))
        assert reported.at(now_s) >= nodes
