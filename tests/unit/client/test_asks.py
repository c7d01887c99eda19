"""What a client asks: the request's parameters."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.client.asks import ask_infer
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
        ({"a": [1]}, r"parameter 'a' is \[1\]"),
        ({"a": float("nan")}, "parameter 'a' is nan"),
    ],
)
def test_parameter_that_cannot_be_sent_is_refused(parameters: Parameters, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ask_infer("m", ONE, parameters=parameters)
