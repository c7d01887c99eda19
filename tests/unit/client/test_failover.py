"""Which router is asked when one has failed, and what may be asked twice."""

from __future__ import annotations

import pytest

from capamesh.client.address import RouterAddress
from capamesh.client.asks import CutOff, Unreachable
from capamesh.client.failover import (
    COOL_DOWN_S,
    Failover,
    is_for_another,
    none_answered,
    routers_of,
)
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    NoEndpoint,
    Overloaded,
    ShutOut,
    Unsatisfiable,
)

A, B, C = (RouterAddress.parse(f"http://10.0.0.{number}:8000") for number in (1, 2, 3))


def test_one_router_is_kept_to_and_one_that_failed_is_asked_last_until_it_has_cooled_down() -> None:
    routers = Failover([A, B, C])
    assert routers.order(0.0) == [A, B, C]
    routers.failed(A, 0.0)
    assert routers.order(0.1) == [B, C, A]
    routers.answered(B)
    assert routers.favourite == B
    assert routers.order(0.2) == [B, C, A]
    routers.failed(B, 1.0)
    assert routers.order(1.1) == [C, A, B]  # who failed first is asked first of them
    routers.answered(C)
    assert routers.order(COOL_DOWN_S + 2) == [C, A, B]
    routers.failed(C, 20.0)
    assert routers.order(20.1) == [A, B, C]
    routers.failed(A, 20.0)
    routers.failed(B, 20.0)
    assert len(routers.order(20.1)) == 3  # nobody is given up


def test_urls_are_read_and_counted() -> None:
    assert routers_of("10.0.0.1:8000") == [A]
    assert routers_of(["http://10.0.0.1:8000", "10.0.0.2:8000"]) == [A, B]
    assert Failover([A, A]).order(0.0) == [A]
    with pytest.raises(ConfigError, match="0 routers are named"):
        Failover([])
    with pytest.raises(ConfigError, match="17 routers are named; give 1 to 16"):
        Failover([A] * 17)


@pytest.mark.parametrize(
    ("error", "when_repeatable", "in_a_sequence"),
    [
        (Unreachable("x"), True, True),
        (ShutOut("x"), True, True),
        (NoEndpoint("x"), True, True),
        (CutOff("x"), True, False),
        (Unsatisfiable("x"), False, False),
        (Overloaded("x"), False, False),
        (InvalidRequest("x"), False, False),
    ],
)
def test_request_of_a_sequence_that_may_have_run_is_not_sent_again(
    error: CapameshError, when_repeatable: bool, in_a_sequence: bool
) -> None:
    assert is_for_another(error, is_repeatable=True) is when_repeatable
    assert is_for_another(error, is_repeatable=False) is in_a_sequence


def test_last_error_tells_of_all() -> None:
    alone = Unreachable("a")
    assert none_answered([alone]) is alone
    assert alone.message == "a"
    last = none_answered([Unreachable("a"), ShutOut("b")])
    assert isinstance(last, ShutOut)
    assert last.message == "none of 2 routers could take it: a; b"
