"""The attempts at one request: other routers first, then the same again as its retries allow."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer, Outputs
from capamesh.client.asks import GRACE_S, Ask, CutOff, Unreachable, ask_infer, ask_nodes
from capamesh.client.attempts import Attempts
from capamesh.client.failover import Failover
from capamesh.client.retries import Retries
from capamesh.protocol.errors import NoEndpoint, Overloaded, RunFailed
from capamesh.protocol.oip import HEADER_LENGTH_NAME, decode_request

A, B = (RouterAddress.parse(f"http://10.0.0.{number}:8000") for number in (1, 2))
ONE = {"X": np.ones(1, np.float32)}
ANSWER = Answer(200, b'{"model_name": "m", "model_version": "1", "id": "", "outputs": []}')


def attempts_at(ask: Ask[Outputs], *routers: RouterAddress, retries: int = 2) -> Attempts[Outputs]:
    return Attempts(ask, Failover(routers), Retries(retries, lambda: 0.0), 100.0)


def timeout_us(ask: Ask[Outputs]) -> object:
    body = b"".join(ask.buffers)
    return decode_request("m", "", body, int(ask.headers[HEADER_LENGTH_NAME])).parameters.get(
        "timeout"
    )


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
    last = NoEndpoint("b", 1.0)
    assert attempts.wait_s(last, 101.0) == 1.0
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


def test_request_without_a_key_that_may_have_run_goes_to_the_next_router_once() -> None:
    attempts = attempts_at(ask_infer("m", ONE), A, B)
    assert attempts.wait_s(CutOff("broke"), 100.0) == 0.0
    assert attempts.router is B
    assert attempts.wait_s(CutOff("broke"), 100.0) is None


def test_step_of_a_sequence_that_may_have_run_is_not_sent_again() -> None:
    step = ask_infer("m", ONE, parameters={"sequence_id": 7})
    assert attempts_at(step, A, B).wait_s(CutOff("broke"), 100.0) is None
    assert attempts_at(step, A, B).wait_s(Overloaded("full", 1.0), 100.0) == 1.0


def test_request_that_failed_for_good_or_is_no_inference_is_not_sent_again() -> None:
    assert attempts_at(ask_infer("m", ONE), A).wait_s(RunFailed("no"), 100.0) is None
    page = Attempts(ask_nodes(), Failover([A]), Retries(2, lambda: 0.0), 100.0)
    assert page.wait_s(Overloaded("full", 1.0), 100.0) is None
