from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.client.answers import (
    Answer,
    failure_of,
    read_held_list,
    read_metadata,
    read_models,
    read_nodes,
)
from capamesh.protocol.errors import CapameshError, ProtocolViolation

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "inputs", "outputs", "shape", "datatype", "nodes", "version"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_is_a_violation(value: object) -> None:
    answer = Answer(200, json.dumps(value).encode())
    for read in (read_models, read_metadata, read_nodes, read_held_list):
        with contextlib.suppress(ProtocolViolation):
            read(answer)


@given(st.integers(100, 599), st.binary(max_size=400), st.none() | st.text(max_size=20))
def test_any_failure_is_an_error_of_the_tree(status: int, body: bytes, code: str | None) -> None:
    error = failure_of(Answer(status, body, code), "http://router:8000")
    assert isinstance(error, CapameshError)
    assert error.message


def test_failure_without_our_body_shows_its_beginning_on_one_line() -> None:
    error = failure_of(Answer(502, b"<html>\n" + b"x" * 1000, "overloaded"), "http://r:1")
    assert error.message == f"http://r:1 answered with HTTP status 502: <html> {'x' * 293}"


def test_failure_of_a_proxy_says_its_title_and_how_a_key_is_given() -> None:
    page = b"<html><head><title>401 Authorization Required</title></head><body>nginx</body></html>"
    said = failure_of(Answer(401, page), "http://r:1").message
    assert said.startswith(
        "http://r:1 answered with HTTP status 401: 401 Authorization Required; a proxy in front of the router asks for a key"
    )
    assert "--header 'Authorization: Bearer KEY'" in said
    ours = failure_of(Answer(401, b'{"error": "no key of this router"}'), "http://r:1")
    assert ours.message == "http://r:1 answered with HTTP status 401: no key of this router"


LAST = "Fri, 31 Dec 1999 23:59:59 GMT"


@pytest.mark.parametrize(
    ("status", "code", "hint", "date", "seconds"),
    [
        (429, "too_many_requests", "3", None, 3.0),
        (503, "overloaded", "30", None, 30.0),
        (503, "no_endpoint", "1", None, 1.0),
        (503, "draining", "7", None, 7.0),
        (503, "keys_unavailable", "7", None, 7.0),
        (429, None, "2", None, 2.0),
        (503, None, LAST, None, 0.0),
        (503, "overloaded", None, None, 0.0),
        (503, None, LAST, LAST.replace("59 GMT", "29 GMT"), 30.0),
        (503, None, LAST, "Sat, 01 Jan 2000 00:00:00 GMT", 0.0),
        (503, None, LAST, "soon", 0.0),
        (503, None, LAST[:-4], LAST, 0.0),
        (503, None, "9" * 10, None, 0.0),
        (503, None, "-1", None, 0.0),
        (503, None, "²", None, 0.0),
    ],
)
def test_refusal_says_when_to_come_again_and_that_it_may_be_tried_again(
    status: int, code: str | None, hint: str | None, date: str | None, seconds: float
) -> None:
    answer = Answer(status, b'{"error": "full"}', code, retry_after=hint, date=date)
    error = failure_of(answer, "http://r:1")
    assert (error.is_retryable, error.retry_after_s) == (True, seconds)
    assert error.code == (code or error.code)
    assert error.message == (
        "full" if code else f"http://r:1 answered with HTTP status {status}: full"
    )
