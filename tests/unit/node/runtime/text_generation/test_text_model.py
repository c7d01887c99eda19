"""What is asked of a language model, as JSON, and what its engine gets."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from tiny_llama import CONTEXT, write_decoder_folder

from capamesh.node.generation.request import NO_LOGPROBS
from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.decoders.genai_config import SearchDefaults
from capamesh.node.runtime.text_generation.asked import MAX_ASKED_BYTES, read_asked, sampling_of
from capamesh.node.runtime.text_generation.text_model import TextModel
from capamesh.protocol.errors import CapameshError, ContextExceeded, InvalidRequest, TooLarge

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}
DRAWN = SearchDefaults(True, 0.7, 40, 0.9, 1.1, 512)
GREEDY = SearchDefaults(False, 0.7, 40, 0.9, 1.0, 512)


def raw(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


def test_parameters_that_are_left_out_are_the_models_own() -> None:
    of_drawn = sampling_of(read_asked(raw()), DRAWN, 5)
    assert (of_drawn.temperature, of_drawn.top_k, of_drawn.top_p) == (0.7, 40, 0.9)
    assert (of_drawn.repetition_penalty, of_drawn.seed, of_drawn.logprobs) == (1.1, 5, NO_LOGPROBS)
    assert sampling_of(read_asked(raw()), GREEDY, 5).is_greedy
    asked = read_asked(raw(temperature=1, top_k=0, logit_bias={"7": -3}, logprobs=2))
    found = sampling_of(asked, GREEDY, 0)
    assert (found.temperature, found.top_k, found.top_p) == (1.0, 0, 1.0)
    assert (dict(found.logit_bias), found.logprobs) == ({7: -3.0}, 2)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (b"{", InvalidRequest, "not JSON"),
        (b"[]", InvalidRequest, "a list of 0"),
        (b"[" * 100_000, InvalidRequest, "generation: "),
        (b" " * (MAX_ASKED_BYTES + 1), TooLarge, str(MAX_ASKED_BYTES)),
        (b"{}", InvalidRequest, "messages or a prompt"),
        (raw(messages=[{}]), InvalidRequest, "one of them alone"),
        (b'{"messages":[]}', InvalidRequest, "messages are empty"),
        (raw(n=0), InvalidRequest, "n is 0"),
        (raw(n=129), InvalidRequest, "n is 129"),
        (raw(max_tokens=0), InvalidRequest, "max_tokens is 0"),
        (raw(max_tokens=True), InvalidRequest, "max_tokens is true"),
        (raw(logprobs=21), InvalidRequest, "logprobs is 21"),
        (raw(prompt=[1, -1]), InvalidRequest, "prompt"),
        (raw(prompt=[2**31]), InvalidRequest, "prompt"),
        (b'{"prompt":"a","temperature":NaN}', InvalidRequest, "not JSON"),
        (b'{"prompt":"a","temperature":1e999}', InvalidRequest, "not JSON"),
        (raw(stop="a"), InvalidRequest, "stop is 'a'"),
        (raw(so_far={"1": [1]}), InvalidRequest, "choice '1'; n is 1"),
        (raw(so_far={"00": [1]}), InvalidRequest, "choice '00'"),
        (raw(n=2, ended=[0, 1]), InvalidRequest, "ended has all of the 2"),
        (raw(temperature=-1), InvalidRequest, "temperature is -1"),
        (raw(top_p=1.5), InvalidRequest, "top_p is 1.5; it may be 0 to 1"),
        (raw(seed=-1), InvalidRequest, "seed"),
        (raw(logit_bias={"x": 1}), InvalidRequest, "logit_bias has 'x'"),
        (raw(logit_bias={"5": 101}), InvalidRequest, "token 5 is 101"),
        (raw(logit_bias={str(n): 1 for n in range(1025)}), InvalidRequest, "1025"),
        (raw(repetition_penalty=0), InvalidRequest, "repetition_penalty is 0"),
    ],
)
def test_bad_values_are_refused(given: bytes, kind: type[CapameshError], words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        sampling_of(asked := read_asked(given), GREEDY, asked.seed or 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    folder = write_decoder_folder(tmp_path_factory.mktemp("tiny"))
    return TextModel(folder, folder.tokenizer_file.read_bytes(), length=CONTEXT)


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """A model whose template teaches how tools are called."""
    folder = write_decoder_folder(tmp_path_factory.mktemp("caller"))
    template = folder.path / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ tools | tojson }}<tool_call>")
    tokenizer = folder.tokenizer_file.read_bytes()
    return TextModel(read_decoder_folder(folder.path), tokenizer, length=CONTEXT)


def read(
    model: TextModel, *, priority: float = 0, deadline_s: float | None = None, **fields: Any
) -> Any:
    return model.read(json.dumps(fields).encode(), priority=priority, deadline_s=deadline_s)


def test_messages_become_the_templates_tokens(model: TextModel) -> None:
    (request,) = read(model, messages=HI).requests
    text = model._tokenizer._tokenizer.decode(list(request.prompt), skip_special_tokens=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert request.max_tokens == CONTEXT - len(request.prompt)
    assert (request.stop_tokens, request.deadline_s) == ({1, 3}, math.inf)


def test_values_reach_the_engine(model: TextModel) -> None:
    asked = {"prompt": [5, 6, 7], "n": 2, "max_tokens": 4, "stop": ["x"], "stop_tokens": [9]}
    call = read(model, priority=5000, deadline_s=8.5, **asked, seed=3, ignore_eos=True)
    (request,) = call.requests
    assert (request.prompt, request.choices, request.max_tokens) == ((5, 6, 7), 2, 4)
    assert (request.stop_strings, request.stop_tokens) == (("x",), {9})
    assert (request.sampling.seed, call.seed) == (3, 3)
    assert (request.priority, request.deadline_s) == (1000, 8.5)
    assert call.choices == (0, 1)


def test_choices_go_on_behind_their_own_tokens(model: TextModel) -> None:
    call = read(model, prompt=[5], n=4, so_far={"0": [8, 9], "3": [7]}, ended=[2], seed=1)
    resumed = [(each.first_choice, each.resumed) for each in call.requests]
    assert resumed == [(0, (8, 9)), (1, ()), (3, (7,))]
    assert call.choices == (0, 1, 3)


def test_prompt_over_the_context_is_told_with_both_numbers(model: TextModel) -> None:
    refusal = f"length is {CONTEXT} tokens.* it has {CONTEXT}: shorten"
    with pytest.raises(ContextExceeded, match=refusal):
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
def test_impossible_text_is_told(model: TextModel, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        read(model, **fields)


def test_tools_bind_the_answer_and_are_read_in_each_choice(caller: TextModel) -> None:
    call = read(caller, messages=HI, tools=[TOOL], n=2)
    assert call.tool_readers.keys() == {0, 1}
    assert call.new_constraint is not None
    none = {"messages": HI, "tools": [TOOL], "tool_choice": "none"}
    for fields in ({"messages": HI}, none, {"prompt": "a", "tools": [TOOL]}):
        plain = read(caller, **fields)
        assert (plain.tool_readers, plain.new_constraint) == ({}, None)
    with pytest.raises(InvalidRequest, match="kind regex, which cannot be had beside tools"):
        read(caller, messages=HI, tools=[TOOL], guide={"regex": "a"})


def test_reader_of_an_answer_that_goes_on_is_where_the_other_was(caller: TextModel) -> None:
    said = '<tool_call>\n{"name": "f", "arguments": {'
    begun = caller._tokenizer.encode(said, adds_special=False)
    call = read(caller, messages=HI, tools=[TOOL], so_far={"0": begun}, stop=["x"])
    reader = call.tool_readers[0]
    assert reader.count == 1
    (piece,) = reader.push("}}")[1]
    assert (piece.index, piece.id, piece.arguments) == (0, "", "}")
