"""The attempts at one request: other routers first, then the same again as its retries allow."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer, Outputs
from capamesh.client.asks import (
    GRACE_S,
    Ask,
    CutOff,
    Unreachable,
    ask_infer,
    ask_nodes,
    cut_off,
    unreachable,
)
from capamesh.client.attempts import Attempts
from capamesh.client.failover import (
    COOL_DOWN_S,
    Failover,
    is_for_another,
    none_answered,
    routers_of,
)
from capamesh.client.retries import BUDGET, COST, Retries
from capamesh.protocol import errors
from capamesh.protocol.errors import CapameshError, ConfigError, NoEndpoint, Overloaded, RunFailed
from capamesh.protocol.oip import HEADER_LENGTH_NAME, decode_request

A, B, C = (RouterAddress.parse(f"http://10.0.0.{number}:8000") for number in (1, 2, 3))
ONE = {"X": np.ones(1, np.float32)}
ANSWER = Answer(200, b'{"model_name": "m", "model_version": "1", "id": "", "outputs": []}')


def wait_s(error: CapameshError, *, draw: float = 0.0, **options: float) -> float | None:
    given = {"attempts": 1, "left_s": 60.0, "is_idempotent": False, **options}
    return Retries(3, lambda: draw).wait_s(error, **given)  # type: ignore[arg-type]


def with_hint(error: CapameshError, after_s: float = 2.0) -> CapameshError:
    error.retry_after_s = after_s
    return error


@pytest.mark.parametrize(
    ("error", "is_waited_out", "is_another_asked", "in_a_sequence"),
    [
        (Overloaded("x"), True, False, False),
        (errors.TooManyRequests("x"), True, False, False),
        (errors.Draining("x"), True, None, None),
        (errors.ModelUnavailable("x"), True, None, None),
        (NoEndpoint("x"), True, True, True),
        (errors.KeysUnavailable("x"), True, None, None),
        (errors.ShutOut("x"), False, True, True),
        (errors.ModelFailed("x"), False, None, None),
        (errors.Unsatisfiable("x"), False, False, False),
        (RunFailed("x"), False, None, None),
        (errors.LinkLost("x"), False, False, False),
        (errors.InvalidRequest("x"), False, False, False),
        (errors.DeadlineExceeded("x"), False, False, False),
        (CutOff("x"), None, True, False),
        (Unreachable("x"), None, True, True),
    ],
    ids=lambda each: getattr(each, "code", each),
)
def test_error_says_whether_it_is_waited_out_or_another_router_asked(
    error: CapameshError,
    is_waited_out: bool | None,
    is_another_asked: bool | None,
    in_a_sequence: bool | None,
) -> None:
    if is_another_asked is not None:
        assert is_for_another(error, is_repeatable=True) is is_another_asked
        assert is_for_another(error, is_repeatable=False) is in_a_sequence
    if is_waited_out:
        assert wait_s(with_hint(error)) == 2.0
        assert wait_s(with_hint(error), draw=0.5) == 2.25
        assert wait_s(with_hint(error, 0.0)) is None
    elif is_waited_out is False:
        assert wait_s(with_hint(error)) is None
        assert wait_s(with_hint(error), is_idempotent=True) is None


def test_router_that_is_not_reached_is_tried_again_after_ever_longer_waits() -> None:
    error = unreachable("http://a", "refused")
    assert [wait_s(error, attempts=count) for count in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert wait_s(error, attempts=4) is None
    broken = cut_off("http://a", "it was closed")
    assert [wait_s(broken, is_idempotent=each) for each in (False, True)] == [None, 0.1]


def test_wait_is_shorter_than_what_is_left_or_there_is_none() -> None:
    refused = with_hint(Overloaded("full"))
    assert wait_s(refused, left_s=2.0) is None
    assert wait_s(refused, left_s=2.01) == 2.0
    assert wait_s(refused, left_s=2.01, draw=0.5) is None


def test_retries_of_all_requests_are_bounded_together() -> None:
    retries = Retries(1, lambda: 0.0)

    def is_retried(left_s: float = 9, by: Retries = retries) -> bool:
        error = Overloaded("full", 2.0)
        return by.wait_s(error, attempts=1, left_s=left_s, is_idempotent=False) is not None

    assert not any(is_retried(left_s=1) for _ in range(100))  # which costs nothing
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
    assert not is_retried(by=Retries(0, lambda: 0.0))
    for wrong in (-1, 21, 1.5, True, "2", None):
        with pytest.raises(ConfigError, match="a whole number from 0 to 20 is expected"):
            Retries(wrong, lambda: 0.0)


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
    for routers in ([], [A] * 17):
        with pytest.raises(ConfigError, match=f"{len(routers)} routers are named; give 1 to 16"):
            Failover(routers)
    alone = Unreachable("a")
    assert none_answered([alone]) is alone
    assert alone.message == "a"


def attempts_at(ask: Ask[Outputs], *routers: RouterAddress) -> Attempts[Outputs]:
    return Attempts(ask, Failover(routers), Retries(2, lambda: 0.0), 100.0)


def timeout_us(ask: Ask[Outputs]) -> object:
    length = int(ask.headers[HEADER_LENGTH_NAME])
    return decode_request("m", "", b"".join(ask.buffers), length).parameters.get("timeout")


def test_refusal_is_waited_out_and_the_router_is_told_what_is_left_of_the_deadline() -> None:
    attempts = attempts_at(ask_infer("m", ONE, timeout_s=5.0), A)
    assert attempts.deadline_s == 105.0 + GRACE_S
    assert timeout_us(attempts.ask) == 5_000_000
    assert attempts.wait_s(Overloaded("full", 2.0), 100.5) == 2.0
    assert (attempts.router, attempts.deadline_s) == (A, 105.0 + GRACE_S)
    assert timeout_us(attempts.ask) == 2_500_000
    refused = Answer(503, b'{"error": "full"}', "overloaded", retry_after="4")
    with pytest.raises(Overloaded) as caught:
        attempts.result(refused)
    assert caught.value.retry_after_s == 4.0
    outputs = attempts.result(ANSWER)
    assert (outputs.timings.attempts, outputs.router) == (2, A.url)


def test_caller_without_a_deadline_sends_the_same_again() -> None:
    ask = ask_infer("m", ONE)
    attempts = attempts_at(ask, A)
    assert attempts.wait_s(Overloaded("full", 2.0), 100.5) == 2.0
    assert attempts.ask is ask
    assert attempts.wait_s(Overloaded("full", 60.0), 103.0) is None


def test_all_routers_are_asked_before_one_is_waited_for() -> None:
    attempts = attempts_at(ask_infer("m", ONE), A, B)
    assert attempts.wait_s(NoEndpoint("a", 3.0), 100.0) == 0.0
    assert attempts.router is B
    assert attempts.wait_s(NoEndpoint("b", 1.0), 100.0) == 1.0
    assert attempts.router is A  # which failed first
    assert attempts.wait_s(Unreachable("a"), 101.0) == 0.0
    assert attempts.wait_s(NoEndpoint("b", 1.0), 101.0) == 1.0
    assert attempts.wait_s(Unreachable("a"), 102.0) == 0.0
    last = NoEndpoint("b", 1.0)
    assert attempts.wait_s(last, 102.0) is None
    assert last.message == "none of 2 routers could take it: a; b"


def test_request_with_an_idempotency_key_that_may_have_run_stays_with_its_router() -> None:
    attempts = attempts_at(ask_infer("m", ONE, idempotency_key="k1"), A, B)
    assert attempts.wait_s(CutOff("broke"), 100.0) == 0.1
    assert attempts.router is A
    assert attempts.wait_s(Unreachable("gone"), 100.1) == 0.2
    assert attempts.router is A
    error = NoEndpoint("no", 1.0)
    assert attempts.wait_s(error, 100.3) is None
    assert error.message == "no"


def test_request_that_may_have_run_goes_to_the_next_router_once_unless_it_is_a_step() -> None:
    attempts = attempts_at(ask_infer("m", ONE), A, B)
    assert attempts.wait_s(CutOff("broke"), 100.0) == 0.0
    assert attempts.router is B
    assert attempts.wait_s(CutOff("broke"), 100.0) is None
    step = ask_infer("m", ONE, parameters={"sequence_id": 7})
    assert attempts_at(step, A, B).wait_s(CutOff("broke"), 100.0) is None
    assert attempts_at(step, A, B).wait_s(Overloaded("full", 1.0), 100.0) == 1.0


def test_request_that_failed_for_good_or_is_no_inference_is_not_sent_again() -> None:
    assert attempts_at(ask_infer("m", ONE), A).wait_s(RunFailed("no"), 100.0) is None
    page = Attempts(ask_nodes(), Failover([A]), Retries(2, lambda: 0.0), 100.0)
    assert page.wait_s(Overloaded("full", 1.0), 100.0) is None
