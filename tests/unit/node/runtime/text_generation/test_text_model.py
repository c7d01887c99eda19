from __future__ import annotations

import json
import math
from typing import Any

import pytest
from tiny_llama import CONTEXT, write_decoder_folder

from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.text_generation.text_model import TextModel
from capamesh.protocol.errors import ContextExceeded, InvalidRequest

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """A model whose template teaches how tools are called."""
    folder = write_decoder_folder(tmp_path_factory.mktemp("caller"))
    template = folder.path / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ tools | tojson }}<tool_call>")
    raw = folder.tokenizer_file.read_bytes()
    return TextModel(read_decoder_folder(folder.path), raw, length=CONTEXT)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    folder = write_decoder_folder(tmp_path_factory.mktemp("tiny"))
    return TextModel(folder, folder.tokenizer_file.read_bytes(), length=CONTEXT)


def read(model: TextModel, **fields: Any) -> Any:
    return model.read(json.dumps(fields).encode(), priority=0, deadline_s=None)


def test_messages_become_the_templates_tokens(model: TextModel) -> None:
    (request,) = read(model, messages=HI).requests
    text = model._tokenizer._tokenizer.decode(list(request.prompt), skip_special_tokens=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert request.max_tokens == CONTEXT - len(request.prompt)
    assert request.stop_tokens == {1, 3}
    assert request.deadline_s == math.inf


def test_values_reach_the_engine(model: TextModel) -> None:
    asked = {"prompt": [5, 6, 7], "n": 2, "max_tokens": 4, "stop": ["x"], "stop_tokens": [9]}
    call = model.read(
        json.dumps({**asked, "seed": 3, "ignore_eos": True}).encode(),
        priority=5000.0,
        deadline_s=8.5,
    )
    (request,) = call.requests
    assert (request.prompt, request.choices, request.max_tokens) == ((5, 6, 7), 2, 4)
    assert (request.stop_strings, request.stop_tokens) == (("x",), {9})
    assert (request.sampling.seed, call.seed) == (3, 3)
    assert (request.priority, request.deadline_s) == (1000, 8.5)
    assert call.choices == (0, 1)


def test_choices_go_on_behind_their_own_tokens(model: TextModel) -> None:
    call = read(model, prompt=[5], n=4, so_far={"0": [8, 9], "3": [7]}, ended=[2], seed=1)
    assert [(each.first_choice, each.resumed) for each in call.requests] == [
        (0, (8, 9)),
        (1, ()),
        (3, (7,)),
    ]
    assert call.choices == (0, 1, 3)
    assert not any(each.is_replayed for each in call.requests)
    exact = read(model, prompt=[5], so_far={"0": [8, 9]}, seed=1, replay=True)
    assert [each.is_replayed for each in exact.requests] == [True]


def test_prompt_over_the_context_is_told_with_both_numbers(model: TextModel) -> None:
    with pytest.raises(
        ContextExceeded, match=f"length is {CONTEXT} tokens.* it has {CONTEXT}: shorten"
    ):
        read(model, prompt=[5] * CONTEXT)
    (request,) = read(model, prompt=[5] * (CONTEXT - 1)).requests
    assert request.max_tokens == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": HI, "tool_choice": "required"}, "there are no tools"),
        ({"messages": HI, "tool_choice": "required", "tools": [TOOL]}, "no form of calls"),
        ({"messages": HI, "tool_choice": {"type": "function"}}, "tool_choice is {"),
        ({"messages": HI, "template": {"messages": []}}, "'messages'"),
        ({"prompt": "a", "guide": {}}, "guide is empty"),
        ({"prompt": "a", "guide": {"regex": "("}}, "regex"),
        ({"prompt": "a", "guide": {"schema": {"type": 3}}}, "json_schema"),
        ({"prompt": []}, "no tokens"),
    ],
)
def test_text_that_cannot_be_made_is_told(
    model: TextModel, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(model, **fields)
    assert words in caught.value.message


def test_tools_bind_the_answer_and_are_read_in_each_choice(caller: TextModel) -> None:
    call = read(caller, messages=HI, tools=[TOOL], n=2)
    assert call.tool_readers.keys() == {0, 1}
    assert call.new_constraint is not None
    for more in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        plain = read(caller, messages=HI, **more)
        assert (plain.tool_readers, plain.new_constraint) == ({}, None)
    free = read(caller, prompt="a", tools=[TOOL])
    assert (free.tool_readers, free.new_constraint) == ({}, None)
    with pytest.raises(InvalidRequest, match="kind regex, which cannot be had beside tools"):
        read(caller, messages=HI, tools=[TOOL], guide={"regex": "a"})


def test_reader_of_an_answer_that_goes_on_is_where_the_other_was(caller: TextModel) -> None:
    begun = caller._tokenizer.encode(
        '<tool_call>\n{"name": "f", "arguments": {', adds_special=False
    )
    call = read(caller, messages=HI, tools=[TOOL], so_far={"0": begun}, stop=["x"])
    reader = call.tool_readers[0]
    assert reader.count == 1
    (piece,) = reader.push("}}")[1]
    assert (piece.index, piece.id, piece.arguments) == (0, "", "}")
