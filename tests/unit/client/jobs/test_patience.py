"""The patience of a client with routers that are away for a while."""

from __future__ import annotations

from capamesh.client.asks import CutOff, Unreachable
from capamesh.client.jobs.patience import PATIENCE_S, Patience
from capamesh.protocol.errors import (
    DeadlineExceeded,
    InvalidRequest,
    JobsUnavailable,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    ProtocolViolation,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_waits_double_up_to_ten_seconds_and_begin_anew_after_a_success() -> None:
    patience = Patience(Clock(), lambda: 0.0)
    found = [patience.wait_s(CutOff("gone")) for _ in range(8)]
    assert found == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    patience.succeeded()
    assert patience.wait_s(CutOff("gone")) == 0.2


def test_patience_ends_five_minutes_after_the_first_failure() -> None:
    clock = Clock()
    patience = Patience(clock, lambda: 0.0)
    assert patience.wait_s(Unreachable("gone")) == 0.2
    clock.now_s += PATIENCE_S - 0.3
    assert patience.wait_s(Unreachable("gone")) is None
    patience.succeeded()
    assert patience.wait_s(Unreachable("gone")) == 0.2


def test_time_that_a_router_names_is_kept_to_within_reason() -> None:
    patience = Patience(Clock(), lambda: 1.0)
    assert patience.wait_s(Overloaded("full", 4.0)) == 5.0
    assert patience.wait_s(Overloaded("full", 1e9)) == 150.0


def test_patience_is_none_before_a_router_was_reached() -> None:
    patience = Patience(Clock(), lambda: 0.0, is_known=False)
    assert patience.wait_s(Unreachable("gone")) is None
    patience.succeeded()
    assert patience.wait_s(Unreachable("gone")) == 0.2


def test_error_that_passes_is_waited_for_and_another_is_the_callers_at_once() -> None:
    for kind in (JobsUnavailable, DeadlineExceeded, Overloaded):
        assert Patience(Clock(), lambda: 0.0).wait_s(kind("x")) == 0.2
    for kind in (InvalidRequest, ModelNotFound, ProtocolViolation, ModelFailed):
        assert Patience(Clock(), lambda: 0.0).wait_s(kind("x")) is None
