from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.health import CircuitState, Health

CLOSED, INHIBITED, EJECTED, RAMPING, FORCED_OPEN, FORCED_CLOSED = CircuitState


def ejected(now_s: float = 0.0) -> Health:
    """Return one that failed five times in a row, the last time at about `now_s` + 2 s."""
    health = Health()
    for at_s in (0.0, 0.3, 0.6, 1.2, 2.0):
        health.failed(now_s + at_s, is_hard=False)
    assert health.state(now_s + 2.0) is EJECTED
    return health


def test_one_hard_failure_inhibits_for_five_seconds_and_a_ramp_follows() -> None:
    health = Health()
    health.failed(10.0, is_hard=True, cause="link lost")
    assert (health.is_full, health.reason, health.since_s) == (False, "link lost", 10.0)
    for now_s, state, may_send in ((10.0, INHIBITED, False), (14.999, INHIBITED, False)):
        assert (health.state(now_s), health.may_send(now_s)) == (state, may_send)
    assert (health.may_send(15.0), health.state(15.0), health.is_full) == (True, RAMPING, False)
    shares = [health.share(now_s) for now_s in (15.0, 16.0, 17.0)]
    assert shares == pytest.approx([0.1, 0.55, 1.0], rel=0.05)
    assert health.state(17.0) is CLOSED


def test_soft_failures_inhibit_shortly_and_longer_each_time() -> None:
    health = Health()
    for at_s, until_s in ((0.0, 0.1), (1.0, 1.2), (2.0, 2.4), (3.0, 3.8)):
        health.failed(at_s, is_hard=False)
        assert not health.may_send(until_s - 0.001)
        assert health.may_send(until_s + 0.001)
    assert health.reason == "a run failed"


def test_five_in_a_row_are_ejected_for_30_seconds_and_longer_each_time() -> None:
    health = ejected()
    assert health.reason == "5 failures in a row"
    assert health.state(31.9) is EJECTED
    assert health.state(32.0) is RAMPING
    health.failed(34.5, is_hard=False)
    assert health.state(34.5) is EJECTED
    assert health.state(94.4) is EJECTED
    assert health.state(94.5) is RAMPING
    for _ in range(20):  # 90, 120, ... 300, 300
        health.failed(now_s := health._until_s + 2.5, is_hard=False)
    assert health._until_s == now_s + 300.0


def test_outlier_needs_three_answers_in_a_row_to_return() -> None:
    health = Health()
    health.eject(0.0)
    health.answered(2.6)
    health.answered(2.6)
    health.failed(2.6, is_hard=False)
    health.answered(5.2)
    health.answered(5.2)
    assert health.state(5.2) is EJECTED
    health.answered(5.2)
    assert health.state(5.2) is RAMPING
    assert health.reason == "an outlier among its peers"


def test_operators_word_goes_before_all() -> None:
    health = Health()
    health.hold(FORCED_OPEN)
    assert (health.may_send(0.0), health.state(0.0)) == (False, FORCED_OPEN)
    assert health.reason == "the operator holds it open"
    health.answered(1.0)
    health.probed(1.0)
    assert not health.may_send(1e9)
    health.hold(FORCED_CLOSED)
    for at_s in range(10):
        health.failed(at_s, is_hard=True)
    health.refused(10.0, 1.0)
    health.eject(10.0)
    assert (health.is_full, health.may_send(10.0), health.share(10.0)) == (True, True, 1.0)
    assert health.state(10.0) is FORCED_CLOSED
    health.hold(None)
    assert (health.may_send(10.0), health.state(10.0)) == (False, EJECTED)


def test_clock_that_is_set_back_wedges_nothing() -> None:
    health = Health()
    health.failed(1000.0, is_hard=True)
    health.may_send(1001.0)
    assert not health.may_send(1.0)
    assert not health.may_send(4.9)
    assert health.may_send(5.1)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["hard", "soft", "refused", "answered", "probed", "eject", "asked", "look", "closed"]
        ),
        st.one_of(st.floats(-1000.0, 400.0), st.floats(0.0, 3.0), st.just(0.0)),
    ),
    max_size=40,
)


def happen(health: Health, event: str, now_s: float) -> None:
    match event:
        case "hard" | "soft":
            health.failed(now_s, is_hard=event == "hard")
        case "refused":
            health.refused(now_s, 1e9)
        case "answered":
            health.answered(now_s)
        case "probed":
            health.probed(now_s)
        case "eject":
            health.eject(now_s)
        case "asked":
            health.probe_asked(now_s)
        case "closed":
            health.hold(FORCED_CLOSED)
            health.hold(None)
        case _:
            health.state(now_s)


@settings(max_examples=70, deadline=None)
@given(events=EVENTS)
def test_replica_may_be_tried_within_six_seconds_and_is_in_full_use_in_the_end_whatever_happens(
    events: list[tuple[str, float]],
) -> None:
    health, now_s = Health(), 1000.0
    for event, passed_s in events:
        now_s += passed_s
        happen(health, event, now_s)
        assert 0.0 < health.share(now_s) <= 1.0
        assert 0.0 <= health._errors <= 0.5
        if health.is_full:
            assert health.may_send(now_s)
            assert health.share(now_s) == 1.0
    assert any(health.may_send(now_s + step / 10) for step in range(61))
    health.state(now_s)
    assert health.may_send(now_s + 400.0)
    assert health.is_full
    assert health.state(now_s + 400.0) is CLOSED
