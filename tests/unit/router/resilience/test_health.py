from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError
from capamesh.router.resilience.health import CircuitState, Health

CLOSED, INHIBITED, EJECTED, RAMPING, FORCED_OPEN, FORCED_CLOSED = CircuitState


def ejected(now_s: float = 0.0) -> Health:
    """Return one that failed five times in a row, the last time at about `now_s` + 2 s."""
    health = Health()
    for at_s in (0.0, 0.3, 0.6, 1.2, 2.0):
        health.failed(now_s + at_s, is_hard=False)
    assert health.state(now_s + 2.0) is EJECTED
    return health


def test_new_one_is_in_full_use() -> None:
    health = Health()
    assert health.is_full
    assert health.may_send(0.0)
    assert health.share(0.0) == 1.0
    assert health.state(0.0) is CLOSED
    assert health.reason == ""
    assert not health.probe_due(1e9)


def test_one_hard_failure_inhibits_for_five_seconds_and_a_ramp_follows() -> None:
    health = Health()
    health.failed(10.0, is_hard=True, cause="link lost")
    assert not health.is_full
    assert not health.may_send(10.0)
    assert not health.may_send(14.999)
    assert health.state(14.999) is INHIBITED
    assert (health.reason, health.since_s) == ("link lost", 10.0)
    assert health.may_send(15.0)
    assert health.state(15.0) is RAMPING
    assert health.share(15.0) == pytest.approx(0.1, rel=0.05)
    assert health.share(16.0) == pytest.approx(0.55, rel=0.05)
    assert not health.is_full
    assert health.share(17.0) == pytest.approx(1.0, abs=0.05)
    assert health.state(17.0) is CLOSED


def test_probes_answer_ends_an_inhibition_at_once() -> None:
    health = Health()
    health.failed(0.0, is_hard=True)
    health.probed(1.0)
    assert health.may_send(1.0)
    assert health.state(1.0) is RAMPING
    assert health.share(1.0) < 0.11


def test_replica_away_for_a_blip_returns_without_a_ramp() -> None:
    health = Health()
    health.failed(0.0, is_hard=True)
    health.probed(0.15)
    assert health.state(0.15) is CLOSED
    assert health.share(0.15) > 0.6  # one error of sixteen is remembered
    for _ in range(50):
        health.answered(0.2)
    assert health.is_full


def test_late_answer_shows_that_a_silent_one_is_there() -> None:
    health = Health()
    health.failed(0.0, is_hard=True, cause="silent")
    health.answered(3.0)
    assert health.state(3.0) is RAMPING


def test_probes_answer_is_not_believed_at_once_when_requests_fail_again() -> None:
    health = Health()
    health.failed(0.0, is_hard=True)
    health.probed(0.1)
    health.failed(0.1, is_hard=True)
    health.probed(0.5)
    assert not health.may_send(0.5)
    health.probed(0.61)
    assert health.may_send(0.61)
    assert health.state(0.61) is RAMPING
    health.failed(0.7, is_hard=True)
    health.probed(1.6)
    assert not health.may_send(1.6)
    health.probed(1.71)
    assert health.may_send(1.71)


def test_probes_answer_says_nothing_of_a_model_that_fails() -> None:
    health = Health()
    health.failed(0.0, is_hard=False)
    assert not health.probe_due(0.09)
    health.probed(0.05)
    assert not health.may_send(0.05)


def test_soft_failures_inhibit_shortly_and_longer_each_time() -> None:
    health = Health()
    for at_s, until_s in ((0.0, 0.1), (1.0, 1.2), (2.0, 2.4), (3.0, 3.8)):
        health.failed(at_s, is_hard=False)
        assert not health.may_send(until_s - 0.001)
        assert health.may_send(until_s + 0.001)
    assert health.reason == "a run failed"


def test_answer_begins_the_row_of_failures_anew() -> None:
    health = Health()
    for at_s in range(20):
        health.failed(at_s, is_hard=False)
        assert health.may_send(at_s + 0.101)
        health.answered(at_s + 0.2)
    assert health.state(20.0) is not EJECTED


def test_lost_link_that_fails_a_hundred_requests_is_one_failure() -> None:
    one, hundred = Health(), Health()
    one.failed(0.0, is_hard=True)
    for _ in range(100):
        hundred.failed(0.0, is_hard=True)
    assert hundred.state(0.0) is INHIBITED
    one.probed(0.5)
    hundred.probed(0.5)
    assert hundred.share(0.5) == one.share(0.5)


def test_hard_failure_makes_a_soft_inhibition_hard() -> None:
    health = Health()
    health.failed(0.0, is_hard=False)
    health.failed(0.05, is_hard=True, cause="link lost")
    assert not health.may_send(5.04)
    assert health.reason == "link lost"
    assert health.may_send(5.05)


def test_probes_of_the_ejected_are_due_after_50_ms_then_at_doubling_distances_up_to_a_second() -> (
    None
):
    health = Health()
    health.failed(0.0, is_hard=True)
    asked: list[float] = []
    for ms in range(5000):
        if health.probe_due(ms / 1e3):
            asked.append(ms / 1e3)
            health.probe_asked(ms / 1e3)
    assert asked == pytest.approx([0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55, 4.55], abs=0.003)
    assert not health.probe_due(5.0)


def test_time_does_not_end_an_inhibition_while_probes_are_asked_and_none_is_answered() -> None:
    health = Health()
    health.failed(0.0, is_hard=True)
    for ms in range(6600):  # the last probe is asked at 6.55 s
        if health.probe_due(ms / 1e3):
            health.probe_asked(ms / 1e3)
        assert health.state(ms / 1e3) is INHIBITED
    assert health.state(8.54) is INHIBITED
    assert health.state(8.57) is RAMPING  # nobody asks any more: its link is down


def test_probe_that_is_answered_late_ends_an_inhibition_all_the_same() -> None:
    health = Health()
    health.failed(0.0, is_hard=True)
    health.probe_asked(4.9)
    assert not health.may_send(5.05)
    health.probed(5.1)
    assert health.may_send(5.1)


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


def test_each_healthy_interval_takes_one_from_the_count_of_ejections() -> None:
    health = ejected()
    health.failed(34.5, is_hard=False)
    assert health.state(94.5) is RAMPING  # the second ended
    health.eject(94.5 + 10.1)
    assert health._until_s == pytest.approx(104.6 + 60.0)
    health.state(200.0)
    health.eject(400.0)
    assert health._until_s == pytest.approx(430.0)


def test_trial_lets_few_through_and_one_answer_ends_an_ejection_for_failures_in_a_row() -> None:
    health = ejected()
    assert not health.may_send(4.49)
    assert health.may_send(4.5)
    assert health.share(4.5) == 0.1
    assert health.state(4.5) is EJECTED
    health.answered(4.5)
    assert health.state(4.5) is RAMPING


def test_failed_trial_waits_for_the_next() -> None:
    health = ejected()
    health.failed(4.6, is_hard=False)
    assert health.state(4.6) is EJECTED
    assert not health.may_send(7.0)
    assert health.may_send(7.1)


def test_answers_to_requests_sent_before_an_ejection_do_not_end_it() -> None:
    health = Health()
    health.eject(0.0)
    for _ in range(50):
        health.answered(1.0)
    assert health.state(1.0) is EJECTED
    assert not health.may_send(1.0)


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


def test_replica_that_refused_is_avoided_for_the_time_it_reported_within_bounds() -> None:
    health = Health()
    health.refused(0.0, 0.5)
    assert not health.is_full
    assert not health.may_send(0.49)
    assert health.state(0.49) is INHIBITED
    assert health.reason == "overloaded: asked to wait 0.50 s"
    assert health.may_send(0.5)
    assert health.is_full  # no fault: no ramp, no error
    health.refused(1.0, 600.0)
    assert health.may_send(3.0)
    health.refused(4.0, 0.0)
    assert not health.may_send(4.04)
    assert health.may_send(4.06)
    for at_s in range(5, 60):
        health.refused(at_s, 0.5)
    assert health.state(60.0) is CLOSED


def test_batch_of_failures_takes_no_more_than_the_least_share() -> None:
    health = Health()
    for _ in range(500):
        health.failed(0.0, is_hard=False)
    assert health._errors == 0.5
    assert health.share(0.1) == 0.05
    assert health.share(5.0) > 0.6  # even if it is not sent anything


def test_refusal_tells_its_cause() -> None:
    health = Health()
    health.refused(0.0, 1.0, cause="draining")
    assert health.reason == "draining: asked to wait 1.00 s"
    assert health.since_s == 0.0


def test_refusals_neither_shorten_nor_end_an_inhibition() -> None:
    health = Health()
    health.failed(0.0, is_hard=True)
    health.refused(1.0, 0.1)
    assert not health.may_send(4.9)
    assert health.may_send(5.0)


@pytest.mark.parametrize(
    ("errors", "low", "high"),
    [(0.0, 1.0, 1.0), (0.01, 0.8, 1.0), (0.1, 0.35, 0.6), (0.3, 0.05, 0.2)],
)
def test_share_falls_with_the_error_rate(errors: float, low: float, high: float) -> None:
    rng, health, shares = random.Random(4), Health(), list[float]()
    for n in range(4000):
        now_s = n * 0.01
        if health.may_send(now_s) and health.state(now_s) is not EJECTED:
            shares.append(health.share(now_s))
        if rng.random() < errors:
            health.failed(now_s, is_hard=False)
        else:
            health.answered(now_s)
    assert low <= sum(shares) / len(shares) <= high


@pytest.mark.parametrize("phase_s", [0.0, 0.7, 1.4, 2.1, 2.5])
@pytest.mark.parametrize("is_hard", [False, True])
def test_recovered_replica_is_in_full_use_five_seconds_later(phase_s: float, is_hard: bool) -> None:
    rng, health = random.Random(8), Health()
    recovered_s = 40.0 + phase_s
    for n in range(int((recovered_s + 5.0) * 100)):  # 100 requests a second draw
        now_s = n / 100
        if health.may_send(now_s) and rng.random() < health.share(now_s):
            if now_s < recovered_s:
                health.failed(now_s, is_hard=is_hard)
            else:
                health.answered(now_s)
        if is_hard and health.probe_due(now_s):
            health.probe_asked(now_s)
            if now_s >= recovered_s:
                health.probed(now_s)
    assert health.is_full


def test_replica_that_always_fails_gets_next_to_nothing() -> None:
    rng, health = random.Random(8), Health()
    sent = 0
    for n in range(6000):  # 100 requests a second for a minute, failing at once
        now_s = n / 100
        if health.may_send(now_s) and rng.random() < health.share(now_s):
            sent += 1
            health.failed(now_s, is_hard=False)
    assert 5 <= sent <= 30


def test_replica_that_answers_probes_but_no_requests_gets_next_to_nothing() -> None:
    rng, health = random.Random(8), Health()
    silent_at: list[float] = []
    victims = 0
    for n in range(6000):  # silence is noticed half a second after a request was sent
        now_s = n / 100
        while silent_at and silent_at[0] <= now_s:
            silent_at.pop(0)
            health.failed(now_s, is_hard=True, cause="silent")
        if health.probe_due(now_s):
            health.probe_asked(now_s)
            health.probed(now_s)
        if health.may_send(now_s) and rng.random() < health.share(now_s):
            victims += 1
            silent_at.append(now_s + 0.5)
    assert 100 <= victims <= 400  # of 6000: half a second of all, twice, and trials


def test_operators_word_goes_before_all() -> None:
    health = Health()
    health.hold(FORCED_OPEN)
    assert not health.may_send(0.0)
    assert health.state(0.0) is FORCED_OPEN
    assert health.reason == "the operator holds it open"
    health.answered(1.0)
    health.probed(1.0)
    assert not health.may_send(1e9)
    health.hold(FORCED_CLOSED)
    for at_s in range(10):
        health.failed(at_s, is_hard=True)
    health.refused(10.0, 1.0)
    health.eject(10.0)
    assert health.is_full
    assert health.may_send(10.0)
    assert health.share(10.0) == 1.0
    assert health.state(10.0) is FORCED_CLOSED
    health.hold(None)
    assert not health.may_send(10.0)
    assert health.state(10.0) is EJECTED


def test_hold_that_is_lifted_leaves_a_healthy_one_in_full_use() -> None:
    health = Health()
    health.hold(FORCED_OPEN)
    health.hold(None)
    assert health.may_send(0.0)
    assert health.is_full


def test_states_other_than_the_operators_cannot_be_held() -> None:
    with pytest.raises(ConfigError, match="forced_open"):
        Health().hold(RAMPING)


def test_clock_that_is_set_back_wedges_nothing() -> None:
    health = Health()
    health.failed(1000.0, is_hard=True)
    health.may_send(1001.0)
    assert not health.may_send(1.0)
    assert not health.may_send(4.9)
    assert health.may_send(5.1)


def test_readings_out_of_order_shorten_nothing() -> None:
    health = Health()
    health.failed(10.0, is_hard=True)
    for n in range(1000):
        health.may_send(10.0 + n % 2)
    assert not health.may_send(14.9)
    assert health.may_send(15.0)


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
def test_replica_may_be_tried_within_six_seconds_and_its_share_is_in_bounds_whatever_happens(
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


@settings(max_examples=70, deadline=None)
@given(events=EVENTS)
def test_replica_left_alone_is_in_full_use_in_the_end_whatever_happened(
    events: list[tuple[str, float]],
) -> None:
    health, now_s = Health(), 1000.0
    for event, passed_s in events:
        now_s += passed_s
        happen(health, event, now_s)
    health.state(now_s)
    assert health.may_send(now_s + 400.0)
    assert health.is_full
    assert health.state(now_s + 400.0) is CLOSED


def test_replica_that_asked_for_a_moment_without_requests_is_resting_and_no_other_is() -> None:
    health = Health()
    assert not health.is_resting(0.0)
    health.refused(0.0, 0.5)
    assert health.is_resting(0.1)
    assert not health.may_send(0.1)
    health.failed(0.2, is_hard=True)
    assert not health.is_resting(0.3)
    health = Health()
    health.refused(0.0, 0.5)
    assert not health.is_resting(0.6)
