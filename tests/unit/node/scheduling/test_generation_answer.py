from __future__ import annotations

import json
import math
from typing import Any

from generation_fakes import LetterText

from capamesh.node.generation import GenerationRequest, TokenLogprob, TokenPart, Usage
from capamesh.node.runtime.text_generation.text_model import ReadCall
from capamesh.node.runtime.text_generation.tool_formats import HERMES
from capamesh.node.runtime.text_generation.tool_reader import ToolCallReader
from capamesh.node.scheduling.generation_answer import GenerationAnswer
from capamesh.protocol.tensors import BYTES, split_elements


def answer_to(choices: int = 1, echo: str = "") -> GenerationAnswer:
    request = GenerationRequest((1, 2), 9, choices=choices)
    return GenerationAnswer(
        ReadCall((request,), LetterText, None, echo, 77), lambda token: f"<{token}>"
    )


def sent(answer: GenerationAnswer) -> list[dict[str, Any]]:
    tensor = answer.sent()
    assert (tensor.name, tensor.datatype, tensor.shape) == ("parts", BYTES, (1,))
    found: list[dict[str, Any]] = json.loads(split_elements(tensor.data, 1)[0])
    return found


def test_parts_that_were_not_sent_are_merged_by_choice() -> None:
    answer = answer_to(2)
    answer.take(1, TokenPart((5,), "a"))
    answer.take(0, TokenPart((6,), "b"))
    answer.take(1, TokenPart((7, 8), "c"))
    assert sent(answer) == [
        {"c": 0, "t": [6], "x": "b", "s": 77},
        {"c": 1, "t": [5, 7, 8], "x": "ac"},
    ]
    assert not answer.has_unsent
    answer.take(0, TokenPart((9,), "d", finish="stop", usage=Usage(2, 1, 2)))
    assert answer.is_alone
    assert sent(answer) == [{"c": 0, "t": [9], "x": "d", "f": "stop"}]
    answer.take(1, TokenPart((), "e", finish="length", usage=Usage(2, 0, 3)))
    assert answer.is_over
    assert sent(answer) == [{"c": 1, "t": [], "x": "e", "f": "length", "u": [2, 1, 5]}]


def test_log_probabilities_have_texts_and_no_infinity() -> None:
    answer = answer_to()
    found = TokenLogprob(5, -0.5, ((5, -0.5), (6, -math.inf)))
    answer.take(0, TokenPart((5,), "a", logprobs=(found,)))
    assert sent(answer)[0]["p"] == [[[5, "<5>", -0.5], [5, "<5>", -0.5], [6, "<6>", -9999.0]]]


def test_each_choice_begins_with_what_is_echoed() -> None:
    answer = answer_to(2, echo="é")
    answer.take(1, TokenPart((5,), "a"))
    assert sent(answer) == [
        {"c": 0, "t": [], "x": "é", "s": 77},
        {"c": 1, "t": [], "x": "é"},
        {"c": 1, "t": [5], "x": "a"},
    ]
    answer.take(0, TokenPart((6,), "b"))
    assert sent(answer) == [{"c": 0, "t": [6], "x": "b"}]


def test_calls_of_tools_are_merged_by_call_and_end_the_choice() -> None:
    request = GenerationRequest((1, 2), 9)
    readers = {0: ToolCallReader(HERMES, ("f", "g"))}
    answer = GenerationAnswer(ReadCall((request,), LetterText, None, "", 7, readers), str)
    for token, text in enumerate(
        ("So <tool", '_call>{"name": "f", "arguments": {"a"', ": 1}", "} <")
    ):
        answer.take(0, TokenPart((token,), text))
    (piece,) = sent(answer)
    (call,) = piece.pop("k")
    assert call.pop("id").startswith("call_")
    assert call == {"i": 0, "name": "f", "arguments": '{"a": 1}'}
    assert piece == {"c": 0, "t": [0, 1, 2, 3], "x": "So ", "s": 7}
    answer.take(0, TokenPart((4,), 'tool_call>{"name": "g", "arguments": '))
    answer.take(0, TokenPart((5,), "{}}", finish="stop", usage=Usage(2, 0, 6)))
    (piece,) = sent(answer)
    assert [(one["i"], one["name"], one["arguments"]) for one in piece["k"]] == [(1, "g", "{}")]
    assert (piece["f"], piece["t"]) == ("tool_calls", [4, 5])


def test_text_that_is_held_for_a_call_comes_with_the_end() -> None:
    readers = {0: ToolCallReader(HERMES, ("f",))}
    call = ReadCall((GenerationRequest((1, 2), 9),), LetterText, None, "", 7, readers)
    answer = GenerationAnswer(call, str)
    answer.take(0, TokenPart((1,), "a <tool"))
    answer.take(0, TokenPart((2,), "_ca", finish="stop", usage=Usage(2, 0, 2)))
    (piece,) = sent(answer)
    assert (piece["x"], piece["f"], "k" in piece) == ("a <tool_ca", "stop", False)
