"""Tools that are asked for, and calls of them that are read out of an answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from capamesh.node.runtime.text_generation.tool_asked import MAX_TOOLS, read_tools, with_arguments
from capamesh.node.runtime.text_generation.tool_formats import (
    HERMES,
    LLAMA,
    MISTRAL,
    ToolFormat,
    format_of,
)
from capamesh.node.runtime.text_generation.tool_reader import MAX_CALLS, MAX_HEAD, ToolCallReader
from capamesh.protocol.errors import InvalidRequest


def tool(name: object = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_choice_says_which_tools_may_and_must_be_called() -> None:
    tools = [tool("f", strict=True), tool("g", parameters={"properties": {}})]
    auto = read_tools(tools, "auto", is_parallel=True)
    assert (auto.must_call, auto.is_single, auto.callable_names) == (False, False, ("f", "g"))
    assert auto.strict == {"f"}
    assert auto.schemas["f"] == {"type": "object", "properties": {}, "additionalProperties": False}
    assert auto.schemas["g"] == {"type": "object", "properties": {}}
    required = read_tools(tools, "required", is_parallel=False)
    assert (required.must_call, required.is_single) == (True, True)
    one = read_tools(tools, named("g"), is_parallel=True)
    assert (one.must_call, one.is_single, one.callable_names) == (True, True, ("g",))
    assert read_tools(tools, "none", is_parallel=True) is None
    assert read_tools([], "auto", is_parallel=True) is None


@pytest.mark.parametrize(
    ("tools", "choice", "says"),
    [
        ([tool("f"), tool("g")], named("h"), "names 'h'; the tools are: f, g"),
        ([], named("h"), "names 'h'; the tools are: none"),
        ([], "required", "there are no tools"),
        ([tool()], "any", "auto, none, required"),
        ([tool()], {"type": "function"}, "auto, none, required"),
        ([tool()] * 2, "auto", "two tools have the name 'f'"),
        ([tool("a b")], "auto", r"tools\[0\].function.name is 'a b'"),
        ([tool(None)], "auto", r"tools\[0\].function.name is 'None'"),
        ([{"type": "retrieval"}], "auto", r"tools\[0\] is no function"),
        ([tool("f", parameters=[])], "auto", "must be a JSON schema"),
        ([tool("f", parameters={"type": "array"})], "auto", "of the type 'array'"),
        ([tool(f"f{n}") for n in range(MAX_TOOLS + 1)], "auto", "129 tools; there may be 128"),
    ],
)
def test_impossible_tools_are_told(tools: list[dict[str, Any]], choice: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_tools(tools, choice, is_parallel=True)


def test_templates_get_the_arguments_of_earlier_calls_as_values() -> None:
    def message(arguments: object) -> dict[str, Any]:
        call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    plain = {"role": "user", "content": "a"}
    whole, cut, none, odd = with_arguments(
        [message('{"a": [1]}'), message('{"a": '), message(""), message("3")]
    )
    assert whole == message({"a": [1]})
    assert cut == message('{"a": ')
    assert none == message({})
    assert odd == message("3")
    strange = {**plain, "tool_calls": [7, {"function": 8}]}
    assert with_arguments([plain, strange]) == [plain, strange]


NAMES = ("weather", "time")
HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
ROME = ("weather", '{"city": "Rome"}')
NOW = ("time", "{}")
CASES = [
    (HERMES, HERMES_CALL, "", [ROME]),
    (HERMES, f"\n {HERMES_CALL}\n", "", [ROME]),
    (HERMES, f"Let me look.\n{HERMES_CALL}", "Let me look.\n", [ROME]),
    (HERMES, HERMES_CALL + "\n" + HERMES_CALL, "", [ROME, ROME]),
    (HERMES, '<tool_call>{"name":"time","arguments":{}}</tool_call>', "", [NOW]),
    (HERMES, "a < b <tool", "a < b <tool", []),
    (HERMES, ' <tool_call>\n{"name": "other", "argu', '<tool_call>\n{"name": "other", "argu', []),
    (HERMES, f"{HERMES_CALL} and <tool_call>no</tool_call> {HERMES_CALL}", "", [ROME, ROME]),
    (HERMES, "  \n", "  \n", []),
    (HERMES, '<tool_call>\n{"name": "wea', '<tool_call>\n{"name": "wea', []),
    (HERMES, HERMES_CALL[:55], "", [("weather", '{"city": "')]),
    (LLAMA, '{"name": "weather", "parameters": {"city": "Rome"}}', "", [ROME]),
    (LLAMA, '<|python_tag|>{"name": "time", "parameters": {}}', "", [NOW]),
    (
        LLAMA,
        '\n{"name": "time", "parameters": {}}; {"name": "weather", "parameters": {"city": "Rome"}}',
        "",
        [NOW, ROME],
    ),
    (
        LLAMA,
        'It is {"name": "time", "parameters": {}}',
        'It is {"name": "time", "parameters": {}}',
        [],
    ),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
    (LLAMA, '{"name": "timely", "parameters": {}}', '{"name": "timely", "parameters": {}}', []),
    (LLAMA, '{"name": 5}', '{"name": 5}', []),
    (LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "time", "arguments": {}}, {"name": "weather", "arguments": {"city": "Rome"}}]',
        "",
        [NOW, ROME],
    ),
    (MISTRAL, 'So: [TOOL_CALLS][{"name":"time","arguments":{}}]', "So: ", [NOW]),
    (MISTRAL, "[TOOL_CALLS]time", "[TOOL_CALLS]time", []),
    (MISTRAL, "[1, 2]", "[1, 2]", []),
]


def read(form: ToolFormat, pieces: list[str], *, ends: bool) -> tuple[str, list[tuple[str, str]]]:
    """Return the text and the calls that come of an answer in these pieces, so far or to its end."""
    reader = ToolCallReader(form, NAMES)
    text, calls = "", list[list[str]]()
    for piece in pieces:
        more, found = reader.push(piece)
        text += more
        for each in found:
            if each.id:
                assert each.index == len(calls)
                calls.append([each.name, each.arguments])
            else:
                assert each.index == len(calls) - 1
                calls[-1][1] += each.arguments
    if ends:
        text += reader.flush()
    return text, [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), CASES)
def test_reader_parts_calls_from_text_however_they_are_cut(
    form: ToolFormat, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    rng = random.Random(1)
    assert read(form, [answer], ends=True) == (text, calls)
    assert read(form, list(answer), ends=True) == (text, calls)
    for _ in range(50):
        at = sorted(rng.randrange(len(answer) + 1) for _ in range(3))
        ends = zip([0, *at], [*at, len(answer)], strict=True)
        assert read(form, [answer[a:b] for a, b in ends], ends=True) == (text, calls)


@pytest.mark.parametrize("answer", [(form, answer) for form, answer, _, _ in CASES])
def test_pieces_depend_on_the_text_so_far_alone(answer: tuple[ToolFormat, str]) -> None:
    form, text = answer
    for end in range(len(text) + 1):
        assert read(form, [text[:end]], ends=False) == read(form, list(text[:end]), ends=False)


def test_calls_and_what_stands_before_their_arguments_are_bounded() -> None:
    many = read(HERMES, [HERMES_CALL * (MAX_CALLS + 5)], ends=True)
    assert many == ("", [ROME] * MAX_CALLS)
    blank = '<tool_call>{"name":' + " " * MAX_HEAD
    assert read(HERMES, list(blank), ends=False)[0] != ""
    reader = ToolCallReader(LLAMA, NAMES)
    for _ in range(100):
        reader.push("{ " * 100)
    assert len(reader._held) <= MAX_HEAD


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% if tools %}within <tool_call></tool_call> XML tags{% endif %}", HERMES),
        ('{% if tools %}{"name": function name, "parameters": dictionary}{% endif %}', LLAMA),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", MISTRAL),
        ("<tool_call>\n<function=example>", None),
        ("[TOOL_CALLS]name[ARGS]{}", None),
        ("{{ messages }}", None),
        ("", None),
    ],
)
def test_form_is_the_one_that_the_template_teaches(template: str, form: ToolFormat | None) -> None:
    assert format_of(template) == form
