"""Bodies of requests for text: what nodes are asked, what is refused by which name, and how prompts begin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import split_elements
from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.beginnings import BLOCK_BYTES, MOST_BLOCKS, beginnings_of
from capamesh.router.requests.generation.chat_answer import ChatStream, ChatWhole
from capamesh.router.requests.generation.chat_request import read_chat
from capamesh.router.requests.generation.completion_request import read_completion
from capamesh.router.requests.generation.fields import object_of
from capamesh.router.requests.generation.foreign_fields import REFUSED, SKIPPED
from capamesh.router.requests.generation.ollama_request import read_ollama_text
from capamesh.router.requests.generation.parts import Piece, Progress
from capamesh.router.requests.generation.responses_request import read_response
from capamesh.router.requests.generation.triton_texts import read_text_input
from capamesh.router.requests.invalid_parameter import InvalidParameter

HI = {"role": "user", "content": "Hi"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def chat(**fields: Any) -> Asked:
    return read_chat({"model": "m", "messages": [HI], **fields})


def sent(asked: Asked, *so_far: Any) -> dict[str, Any]:
    call = asked.call(asked.prompts[0], *so_far)
    found: dict[str, Any] = json.loads(split_elements(call.inputs[0].data, 1)[0])
    return found


def messages(*given: Any) -> Any:
    return sent(chat(messages=list(given)))["messages"]


def test_plain_chat_asks_for_nothing_else() -> None:
    asked = chat()
    assert sent(asked) == {"messages": [HI]}
    assert (asked.choices, asked.max_tokens, asked.logprobs) == (1, None, None)
    assert (asked.is_streamed, asked.has_usage) == (False, False)


def test_fields_that_ask_for_nothing_are_skipped() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("reasoning_effort", "stop", "n"))
    nothing |= dict.fromkeys(("store", "stream", "logprobs"), False)
    nothing |= {"functions": [], "tools": [], "tool_choice": "none", "logit_bias": {}, "top_k": -1}
    nothing |= {
        "cache_prompt": True,
        "unknown": None,
        "user": "me",
        "metadata": {"a": "b"},
        "service_tier": "auto",
    }
    nothing |= {"modalities": ["text"], "response_format": {"type": "text"}, "top_logprobs": 0}
    nothing |= {"chat_template_kwargs": {}}
    assert sent(chat(**nothing)) == {"messages": [HI]}


def test_texts_and_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "ü"}]
    assert messages({"role": "developer", "content": parts}) == [
        {"role": "system", "content": "a\nü"}
    ]


def test_calls_of_tools_and_their_answers_are_passed_on() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    given = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "assistant", "refusal": "no"},
    ]
    assert messages(*given) == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "assistant", "content": "no"},
    ]


def test_stream_options_and_counts_are_read() -> None:
    asked = chat(stream=True, stream_options={"include_usage": True}, n=8, logprobs=True)
    assert (asked.is_streamed, asked.has_usage, asked.choices, asked.logprobs) == (True, True, 8, 0)
    assert chat(max_tokens=5).max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=6).max_tokens == 6


def test_tokens_so_far_are_added_for_another_node_with_the_seed_they_were_drawn_by() -> None:
    more = {"so_far": {"1": [5, 6]}, "ended": [0], "seed": 9}
    assert sent(chat(n=2), {1: [5, 6]}, [0], 9) == {"messages": [HI], "n": 2, **more}
    assert sent(chat(seed=7), {0: [5]}, [], 7)["seed"] == 7


def test_messages_before_the_first_answer_decide_where_it_is_run() -> None:
    more = [HI, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "?"}]
    assert chat().affinity == chat(messages=more, temperature=1).affinity
    mine = chat(prompt_cache_key="mine").affinity
    systems = ([{"role": "system", "content": "x"}, HI], [{"role": "system", "content": "Hi"}])
    others = [chat(messages=given).affinity for given in systems]
    assert len({chat().affinity, mine, chat(tools=[TOOL]).affinity, *others}) == 5
    assert chat(prompt_cache_key="mine", messages=more[1:]).affinity == mine


def test_estimate_is_of_bytes_and_of_tokens_that_may_come() -> None:
    tokens, size_bytes = chat(max_tokens=100, n=2).estimate()
    assert size_bytes == len('{"messages":[{"role":"user","content":"Hi"}]}')
    assert tokens == size_bytes // 4 + 200
    assert chat().estimate()[0] == size_bytes // 4 + 512


USER = {"role": "user"}
TEXT = {"type": "text", "text": ""}
ODD_CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "a b"}}]}


@pytest.mark.parametrize(
    ("given", "place", "said"),
    [
        (None, "", "missing"),
        ([], "", "empty"),
        ([HI] * 2049, "", "at most 2048"),
        (["x"], "[0]", "role"),
        ([HI, {"role": "x"}], "[1].role", "one of system"),
        ([USER], "[0].content", "a text"),
        ([{**USER, "content": [{"type": "image_url"}]}], "[0].content[0].type", "text alone"),
        ([{**USER, "content": [TEXT] * 2049}], "[0].content", "more than 2048 parts"),
        ([{"role": "tool", "content": "x"}], "[0].tool_call_id", "missing"),
        ([{**HI, "tool_calls": [{}]}], "[0].tool_calls", "role assistant"),
        ([ODD_CALL], "[0].tool_calls[0].function.name", "letters"),
    ],
)
def test_message_that_is_wrong_is_told_by_its_place(given: Any, place: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as told:
        chat(messages=given)
    assert told.value.param == f"messages{place}"
    assert said in told.value.message


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"temperature": 2.1}, "temperature", "from 0 to 2"),
        ({"temperature": True}, "temperature", "a number"),
        ({"top_p": -0.1}, "top_p", "from 0 to 1"),
        ({"repetition_penalty": 0.005}, "repetition_penalty", "from 0.01"),
        ({"top_k": 2**31}, "top_k", "to 2147483647"),
        ({"top_k": -2}, "top_k", "whole number"),
        ({"seed": 2**64}, "seed", "whole number"),
        ({"n": 9}, "n", "from 1 to 8"),
        ({"max_completion_tokens": 131_073}, "max_completion_tokens", "to 131072"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"logit_bias": {str(at): 0 for at in range(301)}}, "logit_bias", "at most 300"),
        ({"logit_bias": {"²": 0}}, "logit_bias", "number of a token"),
        ({"logit_bias": {"9" * 5000: 0}}, "logit_bias", "number of a token"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "from -100 to 100"),
        ({"top_logprobs": 1}, "top_logprobs", "set logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"stream_options": {}}, "stream_options", "set stream"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
            "missing",
        ),
        ({"tools": [TOOL] * 2}, "tools", "two of one name"),
        ({"tools": [TOOL] * 129}, "tools", "at most 128"),
        ({"tools": [{"type": "code"}]}, "tools[0].type", "function alone"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "names 'g'; the tools are: f",
        ),
        ({"functions": [{}]}, "functions", "use tools"),
        ({"function_call": {"name": "f"}}, "function_call", "use tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities", "texts"),
        ({"store": True}, "store", "nothing is stored"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "chat_template_kwargs"),
        ({"prompt_cache_key": "x" * 257}, "prompt_cache_key", "at most 256"),
        ({"guided_regexp": "a"}, "guided_regexp", "did you mean guided_regex?"),
        ({"zz": 1}, "zz", "leave it out"),
        ({"bad_words": ["x"]}, "bad_words", "logit_bias"),
        ({"prompt_logprobs": 1}, "prompt_logprobs", "not told"),
        ({"thinking": {"type": "enabled"}}, "thinking", "chat_template_kwargs"),
        ({"stop_token_ids": [1, -1]}, "stop_token_ids", "stop_token_ids[1] is -1"),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids", "at most 256"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "may have 5"),
        ({"guided_choice": []}, "guided_choice", "1 to 1024"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]", "one character"),
        ({"guided_json": "{"}, "guided_json", "no JSON"),
        ({"guided_json": "[]"}, "guided_json", "a JSON schema"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", "did you mean"),
        ({"regex": "a", "grammar": "b"}, "grammar", "one grammar"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex", "one grammar"),
    ],
)
def test_field_that_is_wrong_is_told_by_its_name(fields: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as told:
        chat(**fields)
    assert told.value.param == param
    assert said in told.value.message


A_OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"guided_regex": "a+"}, {"guide": {"regex": "a+"}}),
        ({"regex": "a+"}, {"guide": {"regex": "a+"}}),
        ({"structured_outputs": {"regex": "a+"}}, {"guide": {"regex": "a+"}}),
        ({"guided_choice": ["a", "b"]}, {"guide": {"choice": ["a", "b"]}}),
        ({"structured_outputs": {"choice": ["a"]}}, {"guide": {"choice": ["a"]}}),
        ({"guided_grammar": "start: A"}, {"guide": {"grammar": "start: A"}}),
        ({"grammar": "root ::= x"}, {"guide": {"grammar": "root ::= x"}}),
        ({"ebnf": "root ::= x"}, {"guide": {"grammar": "root ::= x"}}),
        ({"guided_json": A_OBJECT}, {"guide": {"schema": A_OBJECT}}),
        ({"json_schema": '{"type": "object"}'}, {"guide": {"schema": A_OBJECT}}),
        ({"structured_outputs": {"json_object": True}}, {"guide": {"json": True}}),
        (
            {"response_format": {"type": "json_object", "schema": A_OBJECT}},
            {"guide": {"schema": A_OBJECT}},
        ),
        ({"stop_token_ids": [7]}, {"stop_tokens": [7]}),
        (
            {"stop": "x", "include_stop_str_in_output": True, "min_tokens": 3},
            {"stop": ["x"], "keeps_stop": True, "min_tokens": 3},
        ),
    ],
)
def test_fields_of_other_servers_are_done(fields: Any, asked: Any) -> None:
    response = read_response({"model": "m", "input": "Hi", **fields})
    text = read_text_input({"text_input": "Hi", "parameters": fields}, "m", is_streamed=True)
    for each in (chat(**fields), completion(**fields), response, text):
        settings = dict(each.settings)
        settings.pop("max_tokens", None)
        assert settings == asked


OPENAI: dict[str, Any] = {
    "n": 1,
    "logit_bias": {},
    "user": "u",
    "store": False,
    "metadata": {"a": "b"},
    "seed": None,
    "service_tier": "auto",
    "parallel_tool_calls": True,
    "logprobs": False,
    "top_logprobs": 0,
    "stop": None,
    "tools": None,
    "reasoning_effort": None,
    "prompt_cache_retention": "24h",
    "safety_identifier": "u",
    "modalities": ["text"],
    "verbosity": "medium",
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
}
VLLM: dict[str, Any] = {
    "best_of": 1,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "early_stopping": False,
    "top_k": -1,
    "min_p": 0.0,
    "skip_special_tokens": True,
    "detokenize": True,
    "bad_words": [],
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "min_tokens": 0,
    "stop_token_ids": [],
    "logits_processors": [],
    "prompt_logprobs": None,
    "extra_body": {},
    "repetition_penalty": 1.0,
    "vllm_xargs": {},
    "priority": 0,
    "guided_json": None,
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


def test_values_that_clients_send_for_nothing_are_taken() -> None:
    for asked in (chat(**OPENAI), chat(**VLLM), completion(**VLLM)):
        assert (asked.is_streamed, asked.has_usage) == (True, True)
    chat(add_special_tokens=False)
    completion(add_special_tokens=True)
    nothing = {"reasoning": {"effort": None, "summary": None}, "store": False, "truncation": None}
    read_response({"model": "m", "input": "Hi", "include": [], **nothing, "stream_options": {}})
    with pytest.raises(InvalidParameter, match="add_special_tokens"):
        completion(add_special_tokens=False)
    with pytest.raises(InvalidParameter, match=r"did you mean stream_options\.include_usage"):
        chat(stream=True, stream_options={"include_usge": True})


def test_foreign_fields_stand_in_one_list() -> None:
    assert not REFUSED.keys() & SKIPPED.keys()
    for options in ({"mirostat": 1}, {"num_ctxx": 1}, {"top_p": 2}):
        with pytest.raises(InvalidParameter) as told:
            read_ollama_text({"model": "m", "prompt": "Hi", "options": options})
        assert told.value.param == f"options.{next(iter(options))}"
    read_ollama_text({"model": "m", "prompt": "Hi", "options": {"mirostat": 0, "num_ctx": 9}})


def test_bodies_that_are_no_object_are_refused() -> None:
    for body in (b"", b"[", b"[]", b"1", b"\xff", b'{"a":' * 5000, b'{"messages": "\\ud800"}'):
        with pytest.raises(InvalidRequest):
            read_chat(object_of(body))


def test_schema_nested_deep_is_refused_or_passed_on() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    asked = chat(response_format={"type": "json_schema", "json_schema": {"schema": deep}})
    with pytest.raises(InvalidParameter):
        asked.call(asked.prompts[0])


def completion(**fields: Any) -> Asked:
    return read_completion({"model": "m", "prompt": "Hi", **fields})


def test_echo_is_not_asked_for_again_behind_what_there_is() -> None:
    assert sent(completion(echo=True))["echo"] is True
    assert "echo" not in sent(completion(echo=True), {0: [1]})


def test_beginning_of_the_prompt_decides_where_it_is_run() -> None:
    long = "x" * 1024
    assert completion(prompt=long).affinity == completion(prompt=f"{long} more").affinity
    assert completion(prompt=long).affinity != completion(prompt="y").affinity
    assert completion(prompt=[1, 2]).affinity != completion(prompt=[1, 3]).affinity


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ["a", ""]}, "prompt", "prompt[1] is an empty text"),
        ({"prompt": ["a"] * 17}, "prompt", "at most 16"),
        ({"prompt": [1, "a"]}, "prompt", "no whole numbers"),
        ({"prompt": [2**31]}, "prompt", "from 0"),
        ({"prompt": [[]]}, "prompt[0]", "a list of tokens"),
        ({"prompt": [1] * 262_145}, "prompt", "at most 262144"),
        ({"suffix": "x"}, "suffix", "fill in none"),
        ({"best_of": 2}, "best_of", "n is 1"),
        ({"echo": True, "logprobs": 0}, "echo", "logprobs"),
        ({"logprobs": 21}, "logprobs", "from 0 to 20"),
    ],
)
def test_field_of_a_completion_that_is_wrong_is_told_by_its_name(
    fields: Any, param: str, said: str
) -> None:
    with pytest.raises(InvalidParameter) as told:
        completion(**fields)
    assert told.value.param == param
    assert said in told.value.message


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return with how many equal names both begin, and see that none is equal behind that."""
    count = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    assert not set(one[count:]) & set(other[count:])
    return count


def turns(count: int) -> dict[str, Any]:
    """Return a chat of so many messages of 100 bytes and more."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": f"{at} " * 50} for at in range(count)]}


def test_prompts_are_alike_as_far_as_their_bytes_are() -> None:
    text = "x" * (10 * BLOCK_BYTES)
    names = beginnings_of({"prompt": text}, "")
    assert len(names) == 10
    other = beginnings_of({"prompt": text[: 4 * BLOCK_BYTES + 5] + "y" + text}, "")
    assert alike(names, other) == 4
    assert beginnings_of({"prompt": text}, "") == names


def test_tokens_tools_and_texts_are_named() -> None:
    ids = list(range(100))
    assert alike(beginnings_of({"prompt": ids}, ""), beginnings_of({"prompt": [*ids, 1]}, "")) == 6
    chat = turns(2)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert alike(beginnings_of({**chat, "tools": tools}, ""), beginnings_of(chat, "")) == 0
    assert len(beginnings_of({"prompt": "a"}, "")) == 1


def test_names_are_bounded() -> None:
    long = {"prompt": "x" * 10**6}
    assert len(beginnings_of(long, "")) == MOST_BLOCKS
    assert beginnings_of(long, "") == beginnings_of({"prompt": "x" * (10**6 + 1)}, "")
    assert beginnings_of({"prompt": ""}, "") == ()


def test_prompt_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        beginnings_of({"messages": [{"role": "user", "content": "\ud800"}]}, "")


@pytest.mark.parametrize(("last", "may_differ"), [("x", False), ("y", True)])
def test_answer_of_nodes_that_round_otherwise_says_so(last: str, may_differ: bool) -> None:
    progress = Progress(1, 10)
    for piece in (Piece(t=(1,), a="x"), Piece(t=(2,)), Piece(t=(3,), f="stop", a=last)):
        progress.take(piece)
    writers = (
        ChatStream(chat(), "1", 0, lambda: ""),
        ChatWhole(chat(), "1", 0, lambda: "", 99),
    )
    for writer in writers:
        assert (b'"text_may_differ":true' in writer.end(progress.usage())) == may_differ
