"""Reads which tools a call of generation offers, and which of them the answer must call. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from capamesh.protocol.errors import InvalidRequest

MAX_TOOLS: Final = 128
"""The most tools: OpenAI's limit."""
MOST_SHOWN: Final = 500
"""The most characters of tools' names in an error."""
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}\Z")
_NO_ARGUMENTS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
"""The schema of a tool that tells no parameters: it has none, as OpenAI says."""


@dataclass(frozen=True, slots=True)
class AskedTools:
    """The tools that an answer may call."""

    schemas: Mapping[str, Mapping[str, Any]]
    """The schemas of arguments, by the tools' names."""
    strict: frozenset[str]
    """The names of tools whose schemas must be kept to the letter."""
    named: str = ""
    """The one tool that must be called; empty: any."""
    must_call: bool = False
    """True if the answer is a call, whatever the model would say."""
    is_single: bool = False
    """True if there may be one call at most."""

    @property
    def callable_names(self) -> Sequence[str]:
        """Return the names of the tools that may be called."""
        return (self.named,) if self.named else tuple(self.schemas)


def read_tools(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any], *, is_parallel: bool
) -> AskedTools | None:
    """Return which tools may be called; None: none. Raises `InvalidRequest`: what is wrong with the tools or the choice."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"there are {len(tools)} tools; there may be {MAX_TOOLS}")
    schemas: dict[str, Mapping[str, Any]] = {}
    strict: set[str] = set()
    for place, tool in enumerate(tools):
        function = _function(tool, f"tools[{place}]")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            raise InvalidRequest(
                f"tools[{place}].function.name is {str(name)[:80]!r}; 1 to 64 letters, digits, _, . or - are expected"
            )
        if name in schemas:
            raise InvalidRequest(f"two tools have the name {name!r}; name each differently")
        schemas[name] = _schema(function.get("parameters"), place)
        if function.get("strict") is True:
            strict.add(name)
    if choice == "none":
        return None
    if choice == "auto":
        found = AskedTools(schemas, frozenset(strict), is_single=not is_parallel)
        return found if schemas else None
    named = _named(choice)
    if named and named not in schemas:
        names = ", ".join(schemas)[:MOST_SHOWN] or "none"
        raise InvalidRequest(f"tool_choice names {named[:80]!r}; the tools are: {names}")
    if not schemas:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools: send some")
    return AskedTools(
        schemas, frozenset(strict), named, must_call=True, is_single=bool(named) or not is_parallel
    )


def with_arguments(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a chat's messages with the arguments of calls as values, which templates write as they need.

    Arguments that are no JSON object stay the text that they are: an answer that was cut short has such.
    """
    return [
        {**message, "tool_calls": [_with_values(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def _with_values(call: Any) -> Any:  # noqa: ANN401 - what JSON has
    values = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    function: Any = values.get("function")
    try:
        arguments: Any = json.loads(function["arguments"] or "{}")
    except (KeyError, ValueError, TypeError, RecursionError):
        return cast("Any", call)
    if not isinstance(arguments, dict):
        return cast("Any", call)
    told: dict[str, Any] = {**function, "arguments": arguments}
    return {**values, "function": told}


def _function(tool: Mapping[str, Any], at: str) -> Mapping[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise InvalidRequest(f"{at} is no function; tools of the type function alone are taken")
    return cast("dict[str, Any]", function)


def _schema(parameters: object, place: int) -> Mapping[str, Any]:
    if parameters is None:
        return _NO_ARGUMENTS
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"tools[{place}].function.parameters must be a JSON schema")
    schema = {"type": "object", **cast("dict[str, Any]", parameters)}
    if schema["type"] != "object":
        raise InvalidRequest(
            f"tools[{place}].function.parameters are of the type {str(schema['type'])[:80]!r}; object is expected"
        )
    return schema


def _named(choice: str | Mapping[str, Any]) -> str:
    """Return the name of the tool that must be called; empty: any."""
    if choice == "required":
        return ""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(
            f"tool_choice is {str(choice)[:80]}; auto, none, required or an object that names a tool is expected"
        )
    return name
