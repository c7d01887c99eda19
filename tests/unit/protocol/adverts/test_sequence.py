"""The order of a sender's envelopes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import Sequence, boot_ns_after, is_acceptable

MINUTE_NS = 60 * 10**9
NOW_NS = 1_790_000_000 * 10**9


@pytest.mark.parametrize(
    ("known", "new", "expected"),
    [
        (None, Sequence(0, 0), True),
        (Sequence(5, 1), Sequence(5, 1), False),
        (Sequence(5, 1), Sequence(5, 2), True),
        (Sequence(5, 9), Sequence(6, 1), True),
        (Sequence(5, 9), Sequence(4, 10), False),
    ],
)
def test_sequence_is_acceptable_only_if_newer(
    known: Sequence | None, new: Sequence, expected: bool
) -> None:
    assert is_acceptable(known, new) is expected


@pytest.mark.parametrize(
    ("last_ns", "expected_ns"),
    [
        (None, NOW_NS),
        (NOW_NS - 1, NOW_NS),
        (NOW_NS, NOW_NS + 1),
        (NOW_NS + 9 * MINUTE_NS, NOW_NS + 9 * MINUTE_NS + 1),
        (NOW_NS + 10 * MINUTE_NS, NOW_NS + 10 * MINUTE_NS + 1),
        (NOW_NS + 10 * MINUTE_NS + 1, NOW_NS),
    ],
)
def test_boot_exceeds_the_last_one_unless_no_receiver_can_have_accepted_it(
    last_ns: int | None, expected_ns: int
) -> None:
    assert boot_ns_after(NOW_NS, last_ns) == expected_ns


@given(st.lists(st.integers(0, 10 * MINUTE_NS), min_size=1))
def test_restarts_under_a_clock_that_jumps_by_minutes_never_go_backwards(jumps: list[int]) -> None:
    last_ns = None
    for jump_ns in jumps:
        boot_ns = boot_ns_after(NOW_NS + jump_ns, last_ns)
        if last_ns is not None and last_ns <= NOW_NS + jump_ns + 10 * MINUTE_NS:
            assert boot_ns > last_ns
        last_ns = boot_ns
