"""The answers to requests for generated text as outputs of rows: the text, why it ended, and its tokens. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import CapameshError
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.values import BadRow, short

TEXT: Final = "text"
FINISH_REASON: Final = "finish_reason"
TOOL_CALLS: Final = "tool_calls"
"""The calls of tools, as JSON; it is there where a request has tools and the model calls one."""
PROMPT_TOKENS: Final = "prompt_tokens"
COMPLETION_TOKENS: Final = "completion_tokens"


def generated_rows(results: Sequence[Results]) -> tuple[list[Results], list[BadRow]]:
    """Return the answers to requests as one row each, by their numbers, and the requests whose answer is none.

    All rows of a request are in `results`. The outputs are BYTES and INT64 of shape [1], or [1, choices] where a request asks for several.
    """
    found: dict[int, list[tuple[int, Results, int]]] = {}
    for one in results:
        for at, number in enumerate(one.numbers):
            found.setdefault(number, []).append((one.places[at], one, at))
    rows: list[Results] = []
    bad: list[BadRow] = []
    for number in sorted(found):
        places = sorted(found.pop(number), key=lambda each: each[0])
        _, first, at = places[0]
        assert first.form is not None  # noqa: S101 - the rows are of requests
        outputs: dict[str, Any] = {
            name: np.stack([one.outputs[name][place] for _, one, place in places])
            for name in first.outputs
        }
        try:
            body = b"".join(first.form.answer(outputs))
        except CapameshError as exc:
            bad.append(BadRow(number, first.ids[at], exc.code, short(exc.message)))
            continue
        rows.append(Results([number], [first.ids[at]], _outputs(json.loads(body))))
    return rows, bad


def _outputs(body: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return what a body of a chat, of texts that are gone on with, or of a response says, each of shape [1, ...]."""
    usage: Mapping[str, int] = body["usage"]
    if "output" in body:  # a response
        said = _of_response(body)
        prompt, completion = usage["input_tokens"], usage["output_tokens"]
    else:
        said = [_of_choice(each) for each in cast("list[dict[str, Any]]", body["choices"])]
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    outputs = {
        TEXT: _texts([text for text, _, _ in said]),
        FINISH_REASON: _texts([reason for _, reason, _ in said]),
    }
    if any(calls for _, _, calls in said):
        outputs[TOOL_CALLS] = _texts(
            [json.dumps(calls, ensure_ascii=False) for _, _, calls in said]
        )
    outputs[PROMPT_TOKENS] = np.array([prompt], np.int64)
    outputs[COMPLETION_TOKENS] = np.array([completion], np.int64)
    return outputs


_Said = tuple[str, str, list[Any]]
"""The text of a choice, why it ended, and its calls of tools."""


def _of_choice(choice: Mapping[str, Any]) -> _Said:
    message: Mapping[str, Any] = choice.get("message") or {"content": choice.get("text")}
    return (
        message.get("content") or "",
        choice["finish_reason"] or "",
        message.get("tool_calls") or [],
    )


def _of_response(body: Mapping[str, Any]) -> list[_Said]:
    items = cast("list[dict[str, Any]]", body["output"])
    texts = [
        str(part.get("text", ""))
        for item in items
        if item["type"] == "message"
        for part in item["content"]
    ]
    calls = [item for item in items if item["type"] == "function_call"]
    details: Mapping[str, Any] = body.get("incomplete_details") or {}
    is_cut = details.get("reason") == "max_output_tokens"
    return [("".join(texts), "length" if is_cut else "tool_calls" if calls else "stop", calls)]


def _texts(texts: Sequence[str]) -> npt.NDArray[Any]:
    """Return texts as BYTES of shape [1], or [1, texts] where there are several."""
    values = np.empty((1, len(texts)), object)
    values[0, :] = [text.encode("utf-8", "replace") for text in texts]
    return values[:, 0] if len(texts) == 1 else values
