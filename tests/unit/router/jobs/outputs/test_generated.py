"""The answers to requests for text as rows with outputs, in each form of parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import Tensor
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.outputs.generated import generated_rows
from capamesh.router.jobs.outputs.parts import part_chunks
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.row_forms import RowForm
from capamesh.router.jobs.spec import OutputFormat

HI = [{"role": "user", "content": "Hi"}]
CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def piece(text: str, choice: int = 0, **more: Any) -> dict[str, Any]:
    return {"c": choice, "t": [1, 2], "x": text, "f": "stop", "u": [9, 2, 0], **more}


def form_of(path: str, **body: Any) -> RowForm:
    _, form = run_through(ENDPOINTS[path].read({"model": "m", **body}))
    return form


def results(number: int, form: RowForm, *answers: Sequence[Mapping[str, Any]]) -> Results:
    parts = np.empty(len(answers), object)
    parts[:] = [json.dumps(each).encode() for each in answers]
    names = [f"r{number}"] * len(answers)
    places = list(range(len(answers)))
    return Results([number] * len(answers), names, {"parts": parts}, places, form)


def outputs_of(one: Results) -> dict[str, Any]:
    rows, bad = generated_rows([one])
    assert bad == []
    (line,) = b"".join(part_chunks(rows, OutputFormat.JSONL)).splitlines()
    found: dict[str, Any] = json.loads(line)["outputs"]
    return found


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"messages": HI}), (TEXT, {"prompt": "a"}), (RESPONSE, {"input": "a"})],
)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_row_has_the_text_why_it_ended_and_its_tokens(
    path: str, body: dict[str, Any], reason: str
) -> None:
    tokens = {"prompt_tokens": 9, "completion_tokens": 2}
    found = outputs_of(results(3, form_of(path, **body), [piece("Hello é", f=reason)]))
    assert found == {"text": "Hello é", "finish_reason": reason, **tokens}


@pytest.mark.parametrize("form", [OutputFormat.JSONL, OutputFormat.PARQUET, OutputFormat.NPZ])
def test_rows_are_in_order_in_each_form(form: OutputFormat) -> None:
    chat = form_of(CHAT, messages=HI)
    rows, _ = generated_rows([results(at, chat, [piece(f"t{at}")]) for at in (2, 0, 1)])
    assert [each.numbers for each in rows] == [[0], [1], [2]]
    assert b"".join(part_chunks(rows, form))


def test_calls_of_tools_are_json() -> None:
    class Called(RowForm):
        @property
        @override
        def outputs(self) -> tuple[str, ...]:
            return ("parts",)

        @override
        def tensors(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
            return ()

        @override
        def answer(self, outputs: Mapping[str, Any]) -> list[bytes]:
            message = {"content": None, "tool_calls": [{"id": "1"}]}
            choice = {"message": message, "finish_reason": "tool_calls"}
            usage = {"prompt_tokens": 1, "completion_tokens": 2}
            return [json.dumps({"choices": [choice], "usage": usage}).encode()]

    found = outputs_of(results(0, Called(), [piece("")]))
    assert found["text"] == ""
    assert json.loads(found["tool_calls"]) == [{"id": "1"}]


def test_answer_that_is_none_makes_its_row_a_bad_one() -> None:
    chat = form_of(CHAT, messages=HI)
    unfinished = results(1, chat, [{"c": 0, "t": [1], "x": "a"}])
    rows, (bad,) = generated_rows([results(0, chat, [piece("a")]), unfinished])
    assert [each.numbers for each in rows] == [[0]]
    assert (bad.row, bad.row_id, bad.code) == (1, "r1", "protocol_violation")
