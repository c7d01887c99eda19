"""What a client asks: the request's parameters."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.client.answers import Answer
from capamesh.client.asks import GRACE_S, ask_infer
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import HEADER_LENGTH_NAME, Parameters, decode_request

ONE = {"X": np.ones(1, np.float32)}


def sent(parameters: Parameters, *, timeout_s: float | None = None, is_binary: bool) -> Parameters:
    ask = ask_infer("m", ONE, parameters=parameters, timeout_s=timeout_s, is_binary=is_binary)
    length = ask.headers.get(HEADER_LENGTH_NAME)
    body = b"".join(ask.buffers)
    return dict(decode_request("m", "", body, None if length is None else int(length)).parameters)


@pytest.mark.parametrize("is_binary", [True, False])
def test_parameters_are_sent_as_they_are_beside_the_deadline(is_binary: bool) -> None:
    given = {"sequence_id": 7, "sequence_start": True, "priority": 1, "note": "a", "x": 1.5}
    assert sent(given, is_binary=is_binary) == given
    assert sent(given, timeout_s=2, is_binary=is_binary) == {**given, "timeout": 2_000_000}
    assert "timeout" not in given


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"timeout": 5}, "give timeout_s, in seconds, instead of the parameter 'timeout'"),
        ({"binary_data_output": False}, "give is_binary, instead of"),
        ({"a": None}, "parameter 'a' is None: a text, a finite number or a bool is expected"),
        ({"a": float("nan")}, "parameter 'a' is nan"),
    ],
)
def test_parameter_that_cannot_be_sent_is_refused(parameters: Parameters, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ask_infer("m", ONE, parameters=parameters)


def test_priority_is_a_parameter() -> None:
    ask = ask_infer("m", ONE, priority=1, parameters={"note": "a"}, is_binary=False)
    assert dict(decode_request("m", "", ask.buffers[0], None).parameters) == {
        "note": "a",
        "priority": 1,
    }
    for priority in (1.0, True, "1"):
        with pytest.raises(InvalidRequest, match="a whole number from 1, first, to 255, last"):
            ask_infer("m", ONE, priority=priority)
    with pytest.raises(InvalidRequest, match="the priority is given twice"):
        ask_infer("m", ONE, priority=1, parameters={"priority": 2})


def test_idempotency_key_is_a_header_and_what_has_one_is_asked_of_one_router() -> None:
    ask = ask_infer("m", ONE, idempotency_key="4f9c-1")
    assert ask.headers["Idempotency-Key"] == "4f9c-1"
    assert (ask.is_idempotent, ask.is_repeatable) == (True, False)
    plain = ask_infer("m", ONE)
    assert "Idempotency-Key" not in plain.headers
    assert (plain.is_idempotent, plain.is_repeatable) == (False, True)
    for key in (" a", "ä", "a\n", "a" * 256):
        with pytest.raises(InvalidRequest, match="at most 255 of printable ASCII"):
            ask_infer("m", ONE, idempotency_key=key)


def test_request_is_made_again_for_less_time() -> None:
    ask = ask_infer("m", ONE, timeout_s=5.0, id="r1", parameters={"note": "a"})
    assert ask.renew is not None
    again = ask.renew(2.0)
    length = int(again.headers[HEADER_LENGTH_NAME])
    asked = decode_request("m", "", b"".join(again.buffers), length)
    assert dict(asked.parameters) == {"note": "a", "timeout": 2_000_000}
    assert (asked.id, again.wait_s, again.grace_s) == ("r1", 2.0 + GRACE_S, GRACE_S)


@pytest.mark.parametrize(
    ("cache", "age", "found"),
    [("hit", "7", ("hit", 7.0)), ("repeated", "x", ("repeated", 0.0)), (None, "7", ("", 0.0))],
)
def test_answer_that_was_kept_says_so_and_how_old_it_is(
    cache: str | None, age: str | None, found: tuple[str, float]
) -> None:
    body = b'{"model_name": "m", "model_version": "1", "id": "", "outputs": [], "parameters": {"a": 1}}'
    outputs = ask_infer("m", ONE).read(Answer(200, body, cache=cache, age=age), "http://r:1")
    assert (outputs.cache, outputs.age_s) == found
    assert outputs.parameters == {"a": 1}
