"""The requests of batches whose answers are generated: rows, time, and the bodies that their endpoints answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import BYTES, Datatype, Tensor, join_elements, split_elements
from capamesh.router.jobs.generated_rows import (
    MOST_S,
    Chats,
    Completions,
    GeneratedEndpoint,
    Responses,
)
from capamesh.router.jobs.outputs.answers import answer_lines
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.row_forms import RowForm
from capamesh.router.requests.generation.parts import TEMPLATE_TOKENS
from capamesh.router.requests.invalid_parameter import InvalidParameter

HI = [{"role": "user", "content": "Hi"}]
LAST = {"f": "stop", "u": [9, 4, 2]}
KINDS: dict[type[GeneratedEndpoint], dict[str, Any]] = {
    Chats: {"messages": HI},
    Completions: {"prompt": "Hi"},
    Responses: {"input": "Hi"},
}


def read(of: type[GeneratedEndpoint], **body: Any) -> tuple[list[bytes], RowForm]:
    endpoint = of(lambda: 1_700_000_000.5, lambda: "7")
    rows, form = run_through(endpoint.read({"model": "chat", **KINDS[of], **body}))
    return list(rows), form


def outputs(*answers: list[dict[str, Any]]) -> Mapping[str, Any]:
    made = np.empty(len(answers), object)
    made[:] = [json.dumps(each).encode() for each in answers]
    return {"parts": made}


def test_request_is_a_row_with_what_a_node_is_asked() -> None:
    rows, form = read(Chats, max_tokens=5, seed=3)
    assert [json.loads(row) for row in rows] == [{"messages": HI, "max_tokens": 5, "seed": 3}]
    (tensor,) = form.tensors(rows)
    assert (tensor.name, tensor.shape) == ("generation", (1,))
    assert split_elements(tensor.data, 1) == rows
    assert form.outputs == ("parts",)


def test_calls_are_given_time_by_the_tokens_that_they_may_have() -> None:
    bodies: list[dict[str, Any]] = [{}, {"max_tokens": 100}, {"max_tokens": 100, "n": 2}]
    assert [read(Chats, **body)[1].least_s for body in bodies] == [MOST_S, 80.0, 100.0]


def paid(form: RowForm, rows: list[bytes], *answers: object, **changed: Any) -> int:
    data = join_elements([json.dumps(each).encode() for each in answers])
    output = Tensor("parts", BYTES, (len(answers),), data).replace(**changed)
    return form.paid_rows(rows, InferAnswer(ModelVersion("1"), (output,), 0, 0, LoadReport()))


def test_answers_are_paid_for_by_the_tokens_of_prompts_and_answers() -> None:
    rows, form = read(Completions, prompt=["a", "b"], n=2)
    first = [{"c": at, "t": [1, 2], "x": "a", "f": "stop"} for at in (0, 1)]
    second = [*first, {"t": [], "u": [9, 4, 5]}]
    assert paid(form, rows, second, second) == 28
    one, chat = read(Chats)
    told = [{"t": [1, 2], "x": "Hello", **LAST}]
    assert paid(chat, one, told) == 11
    # a node may not say that there are more than can be
    lie = [{"t": [1, 2], "x": "Hello", "f": "stop", "u": [10**9, 0, 10**9]}]
    assert paid(chat, one, lie) == len(one[0]) + TEMPLATE_TOKENS + 3


@pytest.mark.parametrize("junk", [[{"c": 9, "t": [1]}], "junk", None, {"t": []}])
def test_answer_that_is_none_is_paid_for_as_far_as_it_can_be_read(junk: object) -> None:
    rows, form = read(Chats)
    assert paid(form, rows, junk) <= len(rows[0])
    for other in ({"datatype": Datatype.INT8}, {"name": "other"}, {"data": b"\xff\xff\xff\xff"}):
        assert paid(form, rows, junk, **other) == 0


@pytest.mark.parametrize("of", KINDS)
def test_streams_and_wrong_values_are_refused(of: type[GeneratedEndpoint]) -> None:
    for wrong, param in (({"stream": True}, "stream"), ({"temperature": 9}, "temperature")):
        with pytest.raises(InvalidParameter) as caught:
            read(of, **wrong)
        assert caught.value.param == param


@pytest.mark.parametrize(
    "junk",
    [
        [{"t": [1], "x": "no end"}],
        [{"c": 1, "t": [], "f": "stop"}],
        [{"t": "junk"}],
        [],
    ],
)
def test_answer_that_is_none_is_an_error_of_its_request_alone(junk: list[Any]) -> None:
    _, form = read(Chats)
    with pytest.raises(ProtocolViolation):
        form.answer(outputs(junk))
    good, bad = read(Chats)[1], read(Chats)[1]
    fine = [{"t": [1, 2], "x": "Hello", **LAST}]
    made = [
        Results([at], [f"r{at}"], dict(outputs(pieces)), [0], of)
        for at, (of, pieces) in enumerate([(good, fine), (bad, junk)])
    ]
    first, second = map(json.loads, b"".join(answer_lines(made)).splitlines())
    assert first["response"]["status_code"] == 200
    assert second["response"]["status_code"] == 500
