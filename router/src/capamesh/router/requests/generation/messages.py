"""Reads the messages of a chat and the tools that a model may call. Pure.

What nodes get is plain: texts, and the calls of tools, for a model's template to write. A message of the role `developer`
is one of `system`, which templates know.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

from capamesh.router.requests.generation.asked import MOST_BYTES
from capamesh.router.requests.generation.fields import (
    Values,
    as_object,
    flag,
    items,
    table,
    text,
    wrong,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter

MOST_MESSAGES: Final = 2048
"""The most messages of a request, and the most parts of all their contents (guess; measured: 4 ms to read)."""
MOST_TOOLS: Final = 128
"""The most tools: OpenAI's limit."""
MOST_CALLS: Final = 128
"""The most calls of tools in one message (guess: each tool once)."""
MOST_NAME: Final = 64
"""The most characters of a tool's name: OpenAI's limit."""
MOST_ID: Final = 256
_MOST_NAMES: Final = 500
"""The most characters of names in an error."""
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}\Z")
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""The roles that there are, and those that nodes get."""
_TEXTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The kinds of parts that are texts, and the fields that have them."""


class Messages:
    """Reads the messages of one request."""

    def __init__(self) -> None:
        self._parts = 0
        """The parts of contents that were read."""

    def read(self, values: Values) -> list[dict[str, Any]]:
        """Return the messages of a request as nodes get them. Raises `InvalidParameter`."""
        given = items(values, "messages", MOST_MESSAGES)
        if not given:
            raise InvalidParameter("messages", "messages are missing or empty; send at least one")
        return [self.message(each, f"messages[{place}]") for place, each in enumerate(given)]

    def _content(self, given: object, at: str) -> str:
        """Return the text of a message's content: a text, or parts that are texts, one a line. Raises `InvalidParameter`."""
        if type(given) is str:
            return given
        if type(given) is not list:
            raise wrong(at, given, "a text or a list of parts is expected")
        parts = cast("list[object]", given)
        self._parts += len(parts)
        if self._parts > MOST_MESSAGES:
            raise InvalidParameter(
                at, f"the contents have more than {MOST_MESSAGES} parts; join their texts"
            )
        return "\n".join([_text_of(each, f"{at}[{place}]") for place, each in enumerate(parts)])

    def message(self, given: object, at: str) -> dict[str, Any]:
        """Return one message, which stands `at` this place. Raises `InvalidParameter`."""
        if type(given) is not dict:
            raise wrong(at, given, 'an object with "role" and "content" is expected')
        values = cast("dict[str, Any]", given)
        role = values.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise wrong(f"{at}.role", role, f"one of {', '.join(_ROLES)} is expected")
        found: dict[str, Any] = {"role": _ROLES[role]}
        calls = items(values, "tool_calls", MOST_CALLS, at=f"{at}.")
        content = values.get("content")
        if content is None and role == "assistant" and (calls or values.get("refusal")):
            content = values.get("refusal") or ""
        found["content"] = self._content(content, f"{at}.content")
        name = text(values, "name", MOST_ID, at=f"{at}.")
        if name:
            found["name"] = name
        if calls:
            if role != "assistant":
                raise InvalidParameter(
                    f"{at}.tool_calls", f"{at}.tool_calls are of a message of the role assistant"
                )
            found["tool_calls"] = [
                _call(each, f"{at}.tool_calls[{place}]") for place, each in enumerate(calls)
            ]
        call_id = text(values, "tool_call_id", MOST_ID, at=f"{at}.")
        if role == "tool":
            if not call_id:
                raise InvalidParameter(
                    f"{at}.tool_call_id",
                    f"{at}.tool_call_id is missing; a message of the role tool names the call that it answers",
                )
            found["tool_call_id"] = call_id
        return found


def tools_of(values: Values) -> dict[str, Any]:
    """Return the fields of what a node is asked that are about tools. Raises `InvalidParameter`."""
    tools = [
        _tool(each, f"tools[{place}]")
        for place, each in enumerate(items(values, "tools", MOST_TOOLS) or [])
    ]
    names = [each["function"]["name"] for each in tools]
    if len(set(names)) < len(names):
        raise InvalidParameter("tools", "tools have two of one name; name each differently")
    choice = _choice(values.get("tool_choice"), names)
    if values.get("parallel_tool_calls") is not None and tools:
        is_parallel = flag(values, "parallel_tool_calls")
    else:
        is_parallel = True
    if not tools:
        return {}
    found: dict[str, Any] = {"tools": tools}
    if choice is not None:
        found["tool_choice"] = choice
    if not is_parallel:
        found["parallel_tool_calls"] = False
    return found


def _choice(given: object, names: list[str]) -> object:
    """Return which tools may be called, or must; None: the model's matter."""
    if given is None or given == "auto":
        return None
    if given == "none":
        return "none"
    if given == "required":
        if not names:
            raise InvalidParameter(
                "tool_choice", "tool_choice asks for a call, and there are no tools"
            )
        return "required"
    values = as_object(given)
    function = table(values, "function", at="tool_choice.") or values
    name = function.get("name")
    if values.get("type") == "function" and isinstance(name, str):
        if name not in names:
            raise InvalidParameter(
                "tool_choice",
                f"tool_choice names {name[:MOST_NAME]!r}; the tools are: {', '.join(names)[:_MOST_NAMES] or 'none'}",
            )
        return {"type": "function", "function": {"name": name}}
    raise wrong(
        "tool_choice",
        given,
        "auto, none, required or an object that names one of the tools is expected",
    )


def _tool(given: object, at: str) -> dict[str, Any]:
    if type(given) is not dict:
        raise wrong(at, given, "an object is expected")
    values = cast("dict[str, Any]", given)
    if values.get("type") != "function":
        raise wrong(f"{at}.type", values.get("type"), "tools of the type function alone are taken")
    function = table(values, "function", at=f"{at}.") or {}
    found: dict[str, Any] = {"name": _name(function.get("name"), f"{at}.function.name")}
    description = text(function, "description", MOST_BYTES, at=f"{at}.function.")
    if description:
        found["description"] = description
    parameters = table(function, "parameters", at=f"{at}.function.")
    if parameters is not None:
        found["parameters"] = parameters
    if flag(function, "strict", at=f"{at}.function."):
        found["strict"] = True
    return {"type": "function", "function": found}


def _call(given: object, at: str) -> dict[str, Any]:
    """Return a call of a tool that an earlier answer had."""
    if type(given) is not dict:
        raise wrong(at, given, "an object is expected")
    values = cast("dict[str, Any]", given)
    function = table(values, "function", at=f"{at}.") or {}
    return {
        "id": text(values, "id", MOST_ID, at=f"{at}.") or "",
        "type": "function",
        "function": {
            "name": _name(function.get("name"), f"{at}.function.name"),
            "arguments": text(function, "arguments", MOST_BYTES, at=f"{at}.function.") or "",
        },
    }


def _name(given: object, at: str) -> str:
    if not isinstance(given, str) or not _NAME.match(given):
        raise wrong(at, given, f"1 to {MOST_NAME} letters, digits, _, . or - are expected")
    return given


def _text_of(given: object, at: str) -> str:
    """Return the text of one part of a content."""
    values = as_object(given)
    kind = values.get("type")
    field = _TEXTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise wrong(f"{at}.type", kind, "parts of the type text alone are taken")
    value = values.get(field)
    if type(value) is not str:
        raise wrong(f"{at}.{field}", value, "a text is expected")
    return value
