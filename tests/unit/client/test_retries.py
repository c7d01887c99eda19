"""Whether and when a request that failed is sent again."""

from __future__ import annotations

import pytest

from capamesh.client.asks import cut_off, unreachable
from capamesh.client.retries import BUDGET, COST, Retries
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    KeysUnavailable,
    LinkLost,
    ModelFailed,
    ModelUnavailable,
    NoEndpoint,
    Overloaded,
    RunFailed,
    ShutOut,
    TooManyRequests,
    Unsatisfiable,
    from_wire,
)


def wait_s(
    error: CapameshError,
    *,
    attempts: int = 1,
    left_s: float = 60.0,
    is_idempotent: bool = False,
    draw: float = 0.0,
) -> float | None:
    retries = Retries(3, lambda: draw)
    return retries.wait_s(error, attempts=attempts, left_s=left_s, is_idempotent=is_idempotent)


def with_hint(kind: type[CapameshError], after_s: float = 2.0) -> CapameshError:
    error = from_wire(kind.code, "no")
    assert type(error) is kind
    error.retry_after_s = after_s
    return error


@pytest.mark.parametrize(
    "kind",
    [Overloaded, TooManyRequests, Draining, ModelUnavailable, NoEndpoint, KeysUnavailable],
)
def test_refusal_that_names_a_time_is_waited_out(kind: type[CapameshError]) -> None:
    assert wait_s(with_hint(kind)) == 2.0
    assert wait_s(with_hint(kind), draw=0.5) == 2.25
    assert wait_s(with_hint(kind, 0.0)) is None


@pytest.mark.parametrize(
    "kind",
    [ModelFailed, Unsatisfiable, ShutOut, RunFailed, LinkLost, InvalidRequest, DeadlineExceeded],
)
def test_request_that_may_have_run_or_is_not_helped_by_waiting_is_not_sent_again(
    kind: type[CapameshError],
) -> None:
    assert wait_s(with_hint(kind)) is None
    assert wait_s(with_hint(kind), is_idempotent=True) is None


def test_router_that_is_not_reached_is_tried_again_after_ever_longer_waits() -> None:
    error = unreachable("http://a", "refused")
    assert [wait_s(error, attempts=count) for count in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert wait_s(error, attempts=4) is None
    broken = cut_off("http://a", "it was closed")
    assert [wait_s(broken, is_idempotent=each) for each in (False, True)] == [None, 0.1]


def test_wait_is_shorter_than_what_is_left_or_there_is_none() -> None:
    assert wait_s(with_hint(Overloaded), left_s=2.0) is None
    assert wait_s(with_hint(Overloaded), left_s=2.01) == 2.0
    assert wait_s(with_hint(Overloaded), left_s=2.01, draw=0.5) is None


def test_retries_of_all_requests_are_bounded_together() -> None:
    retries = Retries(1, lambda: 0.0)

    def is_retried() -> bool:
        error = with_hint(Overloaded)
        return retries.wait_s(error, attempts=1, left_s=9, is_idempotent=False) is not None

    for _ in range(100):  # a wait that is too long costs nothing
        assert (
            retries.wait_s(with_hint(Overloaded), attempts=1, left_s=1, is_idempotent=False) is None
        )
    most = BUDGET // COST
    assert [is_retried() for _ in range(most + 2)] == [True] * most + [False] * 2
    for _ in range(COST):
        assert not is_retried()
        retries.succeeded()
    assert is_retried()
    assert not is_retried()
    for _ in range(1_000):
        retries.succeeded()
    assert sum(is_retried() for _ in range(3 * most)) == most
    none = Retries(0, lambda: 0.0)
    assert none.wait_s(with_hint(Overloaded), attempts=1, left_s=9, is_idempotent=False) is None
    for wrong in (-1, 21, 1.5, True, "2", None):
        with pytest.raises(ConfigError, match="a whole number from 0 to 20 is expected"):
            Retries(wrong, lambda: 0.0)
