from __future__ import annotations

from typing import Any

import pytest

from capamesh.node.runtime.text_generation.tool_asked import MAX_TOOLS, read_tools, with_arguments
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
def test_tools_that_cannot_be_called_are_told(
    tools: list[dict[str, Any]], choice: Any, says: str
) -> None:
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
