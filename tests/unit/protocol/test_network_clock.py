"""What time it is, by this machine's clock and by its peers': who is believed, and how far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.ids import PeerId
from capamesh.protocol.network_clock import MAX_VOICES, NetworkClock, Skew

T = 1_800_000_000_000
MINUTE_MS = 60_000


def clock_of(*ahead_ms: int, wall_ms: int = T) -> NetworkClock:
    """Return a clock that started at `wall_ms`, with peers of an invite each that are so far ahead of `T`."""
    clock = NetworkClock(wall_ms, 0.0)
    for number, ahead in enumerate(ahead_ms):
        clock.heard(PeerId(f"p{number}"), f"i{number}", T + ahead, 0.0)
    return clock


def test_alone_a_member_goes_by_its_own_clock() -> None:
    clock = clock_of()
    assert clock.skew(T, 0.0) is None
    assert clock.correction_ms(T, 0.0) == 0
    assert clock.is_in_time(T + 10 * MINUTE_MS, T, 0.0)
    assert not clock.is_in_time(T + 10 * MINUTE_MS + 1, T, 0.0)
    assert clock.membership_ms(T + 40 * DAY_MS, 5.0) == T + 40 * DAY_MS
    assert clock_of(*[1000 * MINUTE_MS] * 50).is_in_time(T, T, 0.0)  # whatever liars say
    of_one = clock_of(0, wall_ms=T + 20 * MINUTE_MS)
    assert of_one.skew(T + 20 * MINUTE_MS, 0.0) == Skew(-1200.0, 1)
    assert of_one.correction_ms(T + 20 * MINUTE_MS, 0.0) == 0
    assert [Skew(each, 3).is_wrong for each in (-61.0, 59.0)] == [True, False]


@pytest.mark.parametrize("off_ms", [20 * MINUTE_MS, -20 * MINUTE_MS, 40 * 24 * 60 * MINUTE_MS])
def test_clock_that_all_peers_contradict_is_said_to_be_wrong_and_their_time_is_taken(
    off_ms: int,
) -> None:
    clock = clock_of(0, 50, -40, wall_ms=T + off_ms)
    assert clock.skew(T + off_ms, 0.0) == Skew(-off_ms / 1000, 3)
    assert clock.correction_ms(T + off_ms, 0.0) == -off_ms
    assert clock.is_in_time(T, T + off_ms, 0.0)
    assert clock.is_in_time(T + off_ms, T + off_ms, 0.0)  # by its own, still
    assert not clock.is_in_time(T - 11 * MINUTE_MS * (1 if off_ms > 0 else -1), T + off_ms, 0.0)


def test_voices_without_a_majority_that_agrees_are_not_believed_and_an_invite_has_one() -> None:
    clock = clock_of(0, 20 * MINUTE_MS, 40 * MINUTE_MS, -20 * MINUTE_MS)
    assert (clock.skew(T, 0.0), clock.correction_ms(T, 0.0)) == (None, 0)
    assert clock_of(0, 20 * MINUTE_MS).skew(T, 0.0) is None
    clock = clock_of(0, 10, 20)
    for number in range(1000):
        clock.heard(PeerId(f"fake {number}"), "evil", T + 60 * MINUTE_MS, 0.0)
    assert clock.skew(T, 0.0) == Skew(0.01, 3)
    assert repr(clock) == "NetworkClock(1003 voices)"


def test_voices_are_bounded_and_those_that_fall_silent_count_no_more() -> None:
    clock = clock_of()
    for number in range(MAX_VOICES + 10):
        clock.heard(PeerId(f"{number}"), f"{number}", T, 0.0)
    assert repr(clock) == f"NetworkClock({MAX_VOICES} voices)"
    assert clock.skew(T + 3_600_000, 3600.0) == Skew(0.0, MAX_VOICES)
    assert clock.skew(T + 3_602_000, 3602.0) is None


DAY_MS = 24 * 60 * MINUTE_MS


def test_memberships_are_judged_by_the_reading_of_this_clock_that_peers_confirm() -> None:
    clock = clock_of(0, 0, 0)
    assert clock.skew(T + 5000, 5.0) == Skew(0.0, 3)  # and a jump is seen at once
    assert clock.skew(T + 5000 + 20 * MINUTE_MS, 5.0) == Skew(-1200.0, 3)
    assert clock.membership_ms(T + 40 * DAY_MS, 5.0) == T + 5000  # set wrong: as if it was not
    assert clock.membership_ms(T + 6000, 6.0) == T + 6000
    started_wrong = clock_of(0, 0, 0, wall_ms=T + 40 * DAY_MS)
    assert started_wrong.membership_ms(T + 40 * DAY_MS + 5000, 5.0) == T + 40 * DAY_MS + 5000
    assert started_wrong.membership_ms(T + 6000, 6.0) == T + 6000  # set right
    liars = clock_of(*[-DAY_MS] * 9)
    assert liars.membership_ms(T + 5000, 5.0) == T + 5000
    # nearer to them, and really its own
    assert liars.membership_ms(T + 2 * DAY_MS, 5.0) == T + 5000
    # one that is set right by little and little is followed
    clock = clock_of(0, 0, 0)
    for step in range(1, 100):
        wall_ms = T + step * 1000 + step * MINUTE_MS
        assert clock.membership_ms(wall_ms, float(step)) == wall_ms


@given(
    st.lists(st.integers(-5000, 5000), min_size=5, max_size=9),
    st.lists(st.integers(-(10**9), 10**9), max_size=4),
)
def test_minority_of_invites_never_moves_the_time(honest: list[int], lies: list[int]) -> None:
    skew = clock_of(*honest, *lies).skew(T, 0.0)
    assert skew is None or abs(skew.ahead_s) <= 5.0
